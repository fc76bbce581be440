// CPU kernel of the linear layer's weight gradient, dw += dy' x: sums over rows, a stretch of them at a time in the
// cache, in blocks of outputs by inputs that are held in registers. The rows are cut into parts with sums of their own.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/linear_weight_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <cstring>

#include "core/partial_sums.h"
#include "core/prefetch.h"
#include "core/simd.h"
#include "layers/linear.h"
#include "layers/linear_bfloat16.h"
#include "layers/multiply_block-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// A stretch of rows in the type that sums are computed in, cut into bands of columns that a block reads from its first
// row to its last: [bands][rows][kWidth]. What lies beyond the last column is zero.
template <typename T, std::int64_t kWidth>
class Stretch {
 public:
  Stretch(std::int64_t most_rows, std::int64_t columns)
      : columns_(columns),
        row_(static_cast<std::size_t>(round_up(columns, kWidth))),
        data_(static_cast<std::size_t>(most_rows) * row_.size()) {
    std::fill_n(row_.data(), row_.size(), T(0));
  }

  template <typename S>
  void load_rows(const S* from, std::int64_t rows) {
    rows_ = rows;
    for (std::int64_t r = 0; r < rows; ++r) {
      for_lanes<T>(columns_, [&](auto d, std::int64_t c)
                                 HWY_ATTR { hn::StoreU(load(d, from + r * columns_ + c), d, row_.data() + c); });
      for (std::int64_t c = 0; c < columns_; c += kWidth) {
        std::memcpy(data_.data() + c * rows + r * kWidth, row_.data() + c, kWidth * sizeof(T));
      }
    }
  }

  /// The band that begins with column c.
  const T* band(std::int64_t c) { return data_.data() + c * rows_; }

 private:
  std::int64_t columns_, rows_ = 0;
  Scratch<T> row_, data_;
};

// D and X: types in memory of dy and x.
template <typename D, typename X>
class WeightGradient {
 public:
  using T = Exact<D>;

  WeightGradient(const Tensor& dy, const Tensor& x, Tensor& dw)
      : rows_(dy.shape().rows()),
        out_(dw.size(0)),
        in_(dw.size(1)),
        padded_(round_up(in_, kColumns)),
        dy_(dy.data<D>()),
        x_(x.data<X>()),
        dw_(dw.data<T>()) {}

  void run() {
    PartialSums<T> sums(rows_, std::max(kStretch, tile_count(rows_, kMostParts)), out_ * padded_);
    sums.gather([&](std::int64_t begin, std::int64_t end, T* sum) HWY_ATTR { add_rows(begin, end, sum); });
    sums.add_to(dw_, out_, in_, padded_);
  }

 private:
  static constexpr std::int64_t kColumns = kVectors * hn::MaxLanes(Wide<T>()), kStretch = 96, kMostParts = 16;

  // By stretches of equal length, while the one that follows is asked for.
  void add_rows(std::int64_t begin, std::int64_t end, T* sum) const {
    const std::int64_t stretch = tile_count(end - begin, tile_count(end - begin, kStretch));
    Stretch<T, kRows> dy(stretch, out_);
    Stretch<T, kColumns> x(stretch, in_);
    for (std::int64_t r = begin; r < end; r += stretch) {
      const std::int64_t rows = std::min(stretch, end - r), next = std::min(stretch, end - r - rows);
      dy.load_rows(dy_ + r * out_, rows);
      x.load_rows(x_ + r * in_, rows);
      const std::int64_t blocks = tile_count(out_, kRows) * tile_count(in_, kColumns);
      Prefetch<D> dy_ahead(dy_ + (r + rows) * out_, next * out_, blocks);
      Prefetch<X> x_ahead(x_ + (r + rows) * in_, next * in_, blocks);
      for (std::int64_t j = 0; j < in_; j += kColumns) add_panel(dy, x, rows, j, sum, dy_ahead, x_ahead);
    }
  }

  // Sums of all outputs with one panel of inputs.
  void add_panel(Stretch<T, kRows>& dy, Stretch<T, kColumns>& x, std::int64_t rows, std::int64_t j, T* sum,
                 Prefetch<D>& dy_ahead, Prefetch<X>& x_ahead) const {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(Wide<T>()));
    const int vectors = static_cast<int>(tile_count(std::min(kColumns, in_ - j), lanes));
    const Run run{0, 0, rows};
    HWY_ALIGN T spare[kVectors * HWY_MAX_BYTES / sizeof(T)] = {};
    for (std::int64_t o = 0; o < out_; o += kRows) {
      dy_ahead.step(), x_ahead.step();
      const T* a[kRows];
      T* c[kRows];
      for (std::int64_t m = 0; m < kRows; ++m) {  // outputs beyond the last are zero, and go nowhere
        a[m] = dy.band(o) + m;
        c[m] = o + m < out_ ? sum + (o + m) * padded_ + j : spare;
      }
      multiply_block<T>(vectors, a, kRows, x.band(j), kColumns, &run, &run + 1, nullptr, c);
    }
  }

  const std::int64_t rows_, out_, in_, padded_;
  const D* dy_;
  const X* x_;
  T* dw_;
};

void LinearBackwardWeight(const Tensor& dy, const Tensor& x, Tensor& dw) {
  dispatch_activations("linear", dy.dtype(), [&]<typename D>() HWY_ATTR {
    dispatch_activations("linear", x.dtype(), [&]<typename X>() HWY_ATTR {
      if constexpr (std::is_same_v<Exact<D>, Exact<X>>) WeightGradient<D, X>(dy, x, dw).run();
    });
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(LinearBackwardWeight);
static void linear_backward_weight_cpu(const Tensor& dy, const Tensor& x, Tensor& dw) {
  if (linear_weight_bfloat16_suits(dy, x)) return linear_bfloat16_backward_weight(dy, x, dw);
  HWY_DYNAMIC_DISPATCH(LinearBackwardWeight)(dy, x, dw);
}

constinit Kernel<void(const Tensor&, const Tensor&, Tensor&)> linear_backward_weight{
    "linear_backward_weight", linear_backward_weight_cpu, Bfloat16::native};

}  // namespace dattn
#endif
