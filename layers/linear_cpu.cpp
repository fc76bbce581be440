// CPU kernels of the linear layer: matrix products over rows, and column sums for the bias.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/linear_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "core/gemm.h"
#include "core/parallel.h"
#include "core/partial_sums.h"
#include "core/prefetch.h"
#include "core/simd.h"
#include "layers/linear.h"
#include "layers/linear_bfloat16.h"
#include "layers/multiply_block-inl.h"
#include "layers/row_dots-inl.h"
#include "layers/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

constexpr std::int64_t kParts = 64;  // partial sums of a column

// sums[c] = sum over rows of x [rows, C].
template <typename S, typename T>
void column_sums(const S* x, std::int64_t rows, std::int64_t C, T* sums) {
  for_blocks<T>(C, [&](auto d, auto V, std::int64_t c) HWY_ATTR {
    const std::size_t L = hn::Lanes(d);
    hn::Vec<decltype(d)> sum[V];
    for (int v = 0; v < V; ++v) sum[v] = hn::Zero(d);
    for (const S* p = x + c; p < x + rows * C; p += C) {
      for (int v = 0; v < V; ++v) sum[v] = hn::Add(sum[v], load(d, p + v * L));
    }
    for (int v = 0; v < V; ++v) hn::StoreU(sum[v], d, sums + c + v * L);
  });
}

void BiasBackward(const Tensor& dy, Tensor& db) {
  dispatch_activations("bias", dy.dtype(), [&]<typename S>() HWY_ATTR {
    using T = Exact<S>;
    const std::int64_t C = db.elements(), rows = dy.elements() / C;
    const S* x = dy.data<S>();
    PartialSums<T> sums(rows, part_length(rows, 16, kParts), C);
    sums.gather([&](std::int64_t begin, std::int64_t end, T* sum)
                    HWY_ATTR { column_sums(x + begin * C, end - begin, C, sum); });
    sums.add_to(db.data<T>(), 1, C, C);
  });
}

// --- few rows or few outputs: w is read once, as it lies ---

// y = x w' + b.
template <typename S, typename T>
void few_rows(const Tensor& x, const T* w, const T* b, Tensor& y) {
  constexpr std::int64_t kTileRows = 64, kTileOutputs = 16, kTileProducts = 65536;
  const std::int64_t rows = x.shape().rows(), k = x.size(-1), n = y.size(-1), tiles = tile_count(n, kTileOutputs);
  const std::int64_t together = std::max<std::int64_t>(1, kTileProducts / (kTileRows * kTileOutputs * (k + 1)));
  const S* px = x.data<S>();
  S* py = y.data<S>();
  parallel_for(tile_count(rows, kTileRows) * tiles, together, [&](std::int64_t tile, std::int64_t end) HWY_ATTR {
    DotSums<T> sums[kTileRows];
    for (; tile < end; ++tile) {
      const std::int64_t row = tile / tiles * kTileRows, rows_here = std::min(kTileRows, rows - row);
      const std::int64_t first = tile % tiles * kTileOutputs, last = std::min(n, first + kTileOutputs);
      auto ahead = Prefetch<S>::following(px, first == 0 ? rows * k : 0, row, row + rows_here, rows, rows_here);
      for (std::int64_t o = first; o < last; o += kDotOutputs) {
        const T* weights[kDotOutputs];  // outputs beyond the last repeat one
        for (std::int64_t j = 0; j < kDotOutputs; ++j) weights[j] = w + std::min(o + j, last - 1) * k;
        add_row_dots<S>(false, rows_here, k, weights, [&](std::int64_t r, const S*& in, DotSums<T>*& sum) HWY_ATTR {
          in = px + (row + r) * k, sum = sums + r;
          ahead.step();
        });
        for (std::int64_t r = 0; r < rows_here; ++r) {
          store_dots(sums[r], b ? b + o : nullptr, std::min<std::int64_t>(kDotOutputs, last - o),
                     py + (row + r) * n + o);
        }
      }
    }
  });
}

// --- many rows: blocks of six of them with panels of op(w) ---

// Rows of a matrix in the type that products are computed in: themselves, or a copy.
template <typename S>
class Operand {
 public:
  Operand(const S* from, std::int64_t) : rows_(from) {}
  const S* data() { return rows_; }

 private:
  const S* rows_;
};
template <>
class Operand<bfloat16> {
 public:
  Operand(const bfloat16* from, std::int64_t elements) : rows_(static_cast<std::size_t>(elements)) {
    float* to = rows_.data();
    for_lanes<float>(elements, [&](auto d, std::int64_t i) HWY_ATTR { store(load(d, from + i), d, to + i); });
  }
  const float* data() { return rows_.data(); }

 private:
  Scratch<float> rows_;
};

// Rows to compute into, which store() then leaves where they belong.
template <typename S>
class Result {
 public:
  Result(S* to, std::int64_t) : rows_(to) {}
  S* data() { return rows_; }
  void store() {}

 private:
  S* rows_;
};
template <>
class Result<bfloat16> {
 public:
  Result(bfloat16* to, std::int64_t elements) : to_(to), rows_(static_cast<std::size_t>(elements)) {}
  float* data() { return rows_.data(); }
  void store() {
    for_lanes<float>(static_cast<std::int64_t>(rows_.size()), [&](auto d, std::int64_t i) HWY_ATTR {
      HWY_NAMESPACE::store(load(d, rows_.data() + i), d, to_ + i);
    });
  }

 private:
  bfloat16* to_;
  Scratch<float> rows_;
};

// op(w) [k,n] and b packed into panels of columns, those beyond the last zero.
template <typename T>
class Panels {
 public:
  Panels(Trans tw, const Tensor& w, const Tensor& b)
      : k_(w.size(tw == Trans::yes ? 1 : 0)),
        n_(w.size(tw == Trans::yes ? 0 : 1)),
        panels_(tile_count(n_, columns_)),
        packed_(static_cast<std::size_t>(panels_ * k_ * columns_)),
        start_(static_cast<std::size_t>(panels_ * columns_)) {
    const T* pw = w.data<T>();
    parallel_for(panels_, std::max<std::int64_t>(1, kElementTile / (k_ * columns_ + 1)),
                 [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
                   for (std::int64_t p = begin; p < end; ++p) pack(tw, pw, p);
                 });
    std::fill_n(start_.data(), start_.size(), T(0));
    if (b) std::copy_n(b.data<T>(), n_, start_.data());
  }

  // y [rows,n] = x [rows,k] op(w) + b. Rows go through a few at a time, which stay in the nearest cache from panel to
  // panel, while those that follow are asked for.
  void multiply(const T* x, std::int64_t rows, T* y) {
    for (std::int64_t first = 0; first < rows; first += kRowsTogether) {
      const std::int64_t last = std::min(rows, first + kRowsTogether);
      Prefetch<T> ahead(x + last * k_, (std::min(rows, last + kRowsTogether) - last) * k_,
                        panels_ * tile_count(last - first, kRows));
      for (std::int64_t p = 0; p < panels_; ++p) {
        for (std::int64_t r = first; r < last; r += kRows) {
          ahead.step();
          multiply_rows(p, x + r * k_, last - r, y + r * n_);
        }
      }
    }
  }

 private:
  T* panel(std::int64_t p) { return packed_.data() + p * k_ * columns_; }

  void pack(Trans tw, const T* w, std::int64_t p) {
    const std::int64_t first = p * columns_, width = std::min(columns_, n_ - first);
    T* to = panel(p);
    if (width < columns_) std::fill_n(to, k_ * columns_, T(0));
    if (tw == Trans::yes) return transpose(w + first * k_, k_, width, k_, to, columns_);
    for (std::int64_t i = 0; i < k_; ++i) std::copy_n(w + i * n_ + first, width, to + i * columns_);
  }

  // Up to six rows with one panel. What is to spare, rows or columns, goes nowhere.
  void multiply_rows(std::int64_t p, const T* x, std::int64_t rows, T* y) {
    const std::int64_t first = p * columns_, width = std::min(columns_, n_ - first);
    HWY_ALIGN T spare[kRows * kVectors * HWY_MAX_BYTES / sizeof(T)];
    const T* a[kRows];
    T* c[kRows];
    for (std::int64_t r = 0; r < kRows; ++r) {
      a[r] = x + std::min(r, rows - 1) * k_;
      c[r] = r < rows && width == columns_ ? y + r * n_ + first : spare + r * columns_;
    }
    const int vectors = static_cast<int>(tile_count(width, static_cast<std::int64_t>(hn::Lanes(Wide<T>()))));
    const Run run{0, 0, k_};
    multiply_block(vectors, a, 1, panel(p), columns_, &run, &run + 1, start_.data() + first, c);
    for (std::int64_t r = 0; width < columns_ && r < std::min<std::int64_t>(kRows, rows); ++r) {
      std::copy_n(c[r], width, y + r * n_ + first);
    }
  }

  static constexpr std::int64_t kRowsTogether = 4 * kRows;

  const std::int64_t columns_ = block_columns<T>();
  const std::int64_t k_, n_, panels_;
  Scratch<T> packed_, start_;
};

// y = x op(w) + b.
template <typename S>
void many_rows(const Tensor& x, Trans tw, const Tensor& w, const Tensor& b, Tensor& y) {
  constexpr std::int64_t kManyTiles = 4096;  // rows that are enough for large tiles on many threads
  const std::int64_t rows = x.shape().rows(), k = x.size(-1), n = y.size(-1);
  const std::int64_t tile = (rows < kManyTiles ? 4 : 16) * kRows;
  Panels<Exact<S>> panels(tw, w, b);
  const S* px = x.data<S>();
  S* py = y.data<S>();
  parallel_for(rows, tile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
    Operand<S> in(px + begin * k, (end - begin) * k);
    Result<S> out(py + begin * n, (end - begin) * n);
    panels.multiply(in.data(), end - begin, out.data());
    out.store();
  });
}

void LinearForward(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y) {
  constexpr std::int64_t kFewRows = 64, kFewOutputs = 8;
  dispatch_activations("linear", x.dtype(), [&]<typename S>() HWY_ATTR {
    using T = Exact<S>;
    if (x.shape().rows() > kFewRows && y.size(-1) > kFewOutputs) return many_rows<S>(x, Trans::yes, w, b, y);
    few_rows<S, T>(x, w.data<T>(), b ? b.data<T>() : nullptr, y);
  });
}
void LinearBackwardData(const Tensor& dy, const Tensor& w, Tensor& dx) {
  dispatch_activations("linear", dy.dtype(),
                       [&]<typename S>() HWY_ATTR { many_rows<S>(dy, Trans::no, w, Tensor(), dx); });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

namespace {

HWY_EXPORT(BiasBackward);
void bias_backward_cpu(const Tensor& dy, Tensor& db) { HWY_DYNAMIC_DISPATCH(BiasBackward)(dy, db); }

HWY_EXPORT(LinearForward);
void linear_forward_cpu(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y) {
  if (linear_bfloat16_suits(x)) return linear_bfloat16_forward(x, w, b, y);
  HWY_DYNAMIC_DISPATCH(LinearForward)(x, w, b, y);
}

HWY_EXPORT(LinearBackwardData);
void linear_backward_data_cpu(const Tensor& dy, const Tensor& w, Tensor& dx) {
  if (linear_bfloat16_suits(dy)) return linear_bfloat16_backward_data(dy, w, dx);
  HWY_DYNAMIC_DISPATCH(LinearBackwardData)(dy, w, dx);
}

}  // namespace

constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, Tensor&)> linear_forward{
    "linear_forward", linear_forward_cpu, Bfloat16::native};
constinit Kernel<void(const Tensor&, const Tensor&, Tensor&)> linear_backward_data{
    "linear_backward_data", linear_backward_data_cpu, Bfloat16::native};
constinit Kernel<void(const Tensor&, Tensor&)> bias_backward{"bias_backward", bias_backward_cpu, Bfloat16::native};

}  // namespace dattn
#endif
