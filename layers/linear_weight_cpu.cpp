// CPU kernel of the linear layer's weight gradient, dw += dy' x: sums over rows, a stretch of them at a time in the
// cache, in blocks of outputs by inputs that are held in registers. The rows are cut into parts with sums of their own.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/linear_weight_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "core/partial_sums.h"
#include "core/simd.h"
#include "layers/conv2d_block-inl.h"
#include "layers/linear.h"
#include "layers/linear_tiles.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// Rows of a matrix in the type that sums are computed in, with a cache line between them, or they would share few sets;
// what lies beyond the last column is undefined, as are the sums that it enters and nobody reads.
template <typename T>
class Stretch {
 public:
  Stretch(std::int64_t rows, std::int64_t columns, std::int64_t least)
      : columns_(columns),
        step_(round_up(std::max(columns, least), kLine) + kLine),
        data_(static_cast<std::size_t>(rows * step_)) {}

  template <typename S>
  void load_rows(const S* from, std::int64_t rows) {
    for (std::int64_t r = 0; r < rows; ++r) {
      for_lanes<T>(columns_, [&](auto d, std::int64_t c) HWY_ATTR {
        hn::StoreU(load(d, from + r * columns_ + c), d, data_.data() + r * step_ + c);
      });
    }
  }

  const T* column(std::int64_t c) { return data_.data() + c; }
  std::int64_t step() const { return step_; }

 private:
  static constexpr std::int64_t kLine = 64 / sizeof(T);

  std::int64_t columns_, step_;
  Scratch<T> data_;
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
        columns_(block_columns<T>()),
        padded_(round_up(in_, columns_)),
        dy_(dy.data<D>()),
        x_(x.data<X>()),
        dw_(dw.data<T>()) {}

  void run() {
    PartialSums<T> sums(rows_, part_length(rows_, kStretch, kMostParts), out_ * padded_);
    sums.gather([&](std::int64_t begin, std::int64_t end, T* sum) HWY_ATTR { add_rows(begin, end, sum); });
    sums.add_to(dw_, out_, in_, padded_);
  }

 private:
  static constexpr std::int64_t kStretch = 96, kMostParts = 32;

  void add_rows(std::int64_t begin, std::int64_t end, T* sum) const {
    Stretch<T> dy(kStretch, out_, out_), x(kStretch, in_, padded_);
    for (std::int64_t r = begin; r < end; r += kStretch) {
      const std::int64_t rows = std::min(kStretch, end - r);
      dy.load_rows(dy_ + r * out_, rows);
      x.load_rows(x_ + r * in_, rows);
      for (std::int64_t j = 0; j < in_; j += columns_) add_panel(dy, x, rows, j, sum);
    }
  }

  // Sums of all outputs with one panel of inputs.
  void add_panel(Stretch<T>& dy, Stretch<T>& x, std::int64_t rows, std::int64_t j, T* sum) const {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(Wide<T>()));
    const int vectors = static_cast<int>(tile_count(std::min(columns_, in_ - j), lanes));
    const Run run{0, 0, rows};
    HWY_ALIGN T spare[kVectors * HWY_MAX_BYTES / sizeof(T)] = {};
    for (std::int64_t o = 0; o < out_; o += kRows) {
      const T* a[kRows];
      T* c[kRows];
      for (std::int64_t m = 0; m < kRows; ++m) {  // outputs beyond the last repeat one, and go nowhere
        a[m] = dy.column(std::min(o + m, out_ - 1));
        c[m] = o + m < out_ ? sum + (o + m) * padded_ + j : spare;
      }
      multiply_block<T>(vectors, a, dy.step(), x.column(j), x.step(), &run, &run + 1, nullptr, c);
    }
  }

  const std::int64_t rows_, out_, in_, columns_, padded_;
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
  if (linear_weight_tiles_suit(dy, x)) return linear_tiles_backward_weight(dy, x, dw);
  HWY_DYNAMIC_DISPATCH(LinearBackwardWeight)(dy, x, dw);
}

constinit Kernel<void(const Tensor&, const Tensor&, Tensor&)> linear_backward_weight{
    "linear_backward_weight", linear_backward_weight_cpu, Bfloat16::native};

}  // namespace dattn
#endif
