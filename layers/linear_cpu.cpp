// CPU kernels of the linear layer: matrix products over rows, and column sums for the bias.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/linear_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "core/gemm.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "layers/linear.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

constexpr std::int64_t kParts = 64;  // partial sums of a column, added in order

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
    const std::int64_t part = std::max<std::int64_t>(16, (rows + kParts - 1) / kParts), parts = tile_count(rows, part);
    Scratch<T> sums(static_cast<std::size_t>(parts * C));
    const S* x = dy.data<S>();
    T *s = sums.data(), *b = db.data<T>();
    parallel_for(rows, part, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      column_sums(x + begin * C, end - begin, C, s + begin / part * C);
    });
    for (std::int64_t i = 0; i < parts; ++i) axpy<T>(C, T(1), s + i * C, b);
  });
}

void Widen(std::int64_t n, const bfloat16* x, float* y) {
  for_lanes<float>(n, [&](auto d, std::int64_t i) HWY_ATTR { store(load(d, x + i), d, y + i); });
}
void Narrow(std::int64_t n, const float* x, bfloat16* y) {
  for_lanes<float>(n, [&](auto d, std::int64_t i) HWY_ATTR { store(load(d, x + i), d, y + i); });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

namespace {

HWY_EXPORT(BiasBackward);
void bias_backward_cpu(const Tensor& dy, Tensor& db) { HWY_DYNAMIC_DISPATCH(BiasBackward)(dy, db); }

HWY_EXPORT(Widen);
HWY_EXPORT(Narrow);

constexpr std::int64_t kTileRows = 256;

std::int64_t tile_rows(std::int64_t rows) { return std::clamp<std::int64_t>((rows + 7) / 8, 1, kTileRows); }

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
    HWY_DYNAMIC_DISPATCH(Widen)(elements, from, rows_.data());
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
  void store() { HWY_DYNAMIC_DISPATCH(Narrow)(static_cast<std::int64_t>(rows_.size()), rows_.data(), to_); }

 private:
  bfloat16* to_;
  Scratch<float> rows_;
};

// y [rows, n] = x [rows, k] op(w) + b, tile by tile: each starts as the bias, and the product is added while the tile
// is in the cache. Products of few rows in float are cut by columns instead.
template <typename S>
void multiply_rows(const Tensor& x, Trans tw, const Tensor& w, const Tensor& b, Tensor& y) {
  using T = Exact<S>;
  const std::int64_t k = x.size(-1), n = y.size(-1), rows = x.shape().rows();
  const T *pw = w.data<T>(), *pb = b ? b.data<T>() : nullptr;
  const S* px = x.data<S>();
  S* py = y.data<S>();
  const auto start = [&](T* out, std::int64_t m) {
    for (std::int64_t i = 0; pb && i < m; ++i) std::copy_n(pb, n, out + i * n);
  };
  if constexpr (std::is_same_v<S, T>) {
    if (!pb || rows < n) {
      start(py, rows);
      return gemm<T>(Trans::no, tw, rows, n, k, 1, px, k, pw, w.size(1), pb ? 1 : 0, py, n);
    }
  }
  parallel_for(rows, tile_rows(rows), [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t m = end - begin;
    Operand<S> in(px + begin * k, m * k);
    Result<S> out(py + begin * n, m * n);
    start(out.data(), m);
    gemm_tile<T>(Trans::no, tw, m, n, k, 1, in.data(), k, pw, w.size(1), pb ? 1 : 0, out.data(), n);
    out.store();
  });
}

void linear_forward_cpu(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y) {
  dispatch_activations("linear", x.dtype(), [&]<typename S>() { multiply_rows<S>(x, Trans::yes, w, b, y); });
}

void linear_backward_data_cpu(const Tensor& dy, const Tensor& w, Tensor& dx) {
  dispatch_activations("linear", dy.dtype(), [&]<typename S>() { multiply_rows<S>(dy, Trans::no, w, Tensor(), dx); });
}

void linear_backward_weight_cpu(const Tensor& dy, const Tensor& x, Tensor& dw) {
  dispatch_float("linear", dy.dtype(), [&]<typename T>() {
    const std::int64_t out = dw.size(0), in = dw.size(1);
    gemm<T>(Trans::yes, Trans::no, out, in, dy.shape().rows(), 1, dy.data<T>(), out, x.data<T>(), in, 1, dw.data<T>(),
            in);
  });
}

}  // namespace

constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, Tensor&)> linear_forward{
    "linear_forward", linear_forward_cpu, Bfloat16::native};
constinit Kernel<void(const Tensor&, const Tensor&, Tensor&)> linear_backward_data{
    "linear_backward_data", linear_backward_data_cpu, Bfloat16::native};
constinit Kernel<void(const Tensor&, const Tensor&, Tensor&)> linear_backward_weight{"linear_backward_weight",
                                                                                     linear_backward_weight_cpu};
constinit Kernel<void(const Tensor&, Tensor&)> bias_backward{"bias_backward", bias_backward_cpu, Bfloat16::native};

}  // namespace dattn
#endif
