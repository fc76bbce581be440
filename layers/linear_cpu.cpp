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
template <typename T>
void column_sums(const T* x, std::int64_t rows, std::int64_t C, T* sums) {
  for_blocks<T>(C, [&](auto d, auto V, std::int64_t c) HWY_ATTR {
    const std::size_t L = hn::Lanes(d);
    hn::Vec<decltype(d)> sum[V];
    for (int v = 0; v < V; ++v) sum[v] = hn::Zero(d);
    for (const T* p = x + c; p < x + rows * C; p += C) {
      for (int v = 0; v < V; ++v) sum[v] = hn::Add(sum[v], hn::LoadU(d, p + v * L));
    }
    for (int v = 0; v < V; ++v) hn::StoreU(sum[v], d, sums + c + v * L);
  });
}

void BiasBackward(const Tensor& dy, Tensor& db) {
  dispatch_float("bias", dy.dtype(), [&]<typename T>() HWY_ATTR {
    const std::int64_t C = db.elements(), rows = dy.elements() / C;
    const std::int64_t part = std::max<std::int64_t>(16, (rows + kParts - 1) / kParts), parts = tile_count(rows, part);
    Scratch<T> sums(static_cast<std::size_t>(parts * C));
    const T* x = dy.data<T>();
    T *s = sums.data(), *b = db.data<T>();
    parallel_for(rows, part, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      column_sums(x + begin * C, end - begin, C, s + begin / part * C);
    });
    for (std::int64_t i = 0; i < parts; ++i) axpy<T>(C, T(1), s + i * C, b);
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

namespace {

HWY_EXPORT(BiasBackward);
void bias_backward_cpu(const Tensor& dy, Tensor& db) { HWY_DYNAMIC_DISPATCH(BiasBackward)(dy, db); }

constexpr std::int64_t kTileRows = 256;

// Each tile of y starts as the bias, and the product is added while the tile is in the cache.
template <typename T>
void forward_with_bias(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y) {
  const std::int64_t out = w.size(0), in = w.size(1), rows = x.shape().rows();
  const T *px = x.data<T>(), *pw = w.data<T>(), *pb = b.data<T>();
  T* py = y.data<T>();
  parallel_for(rows, std::clamp<std::int64_t>((rows + 7) / 8, 1, kTileRows), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) std::copy_n(pb, out, py + i * out);
    gemm_tile<T>(Trans::no, Trans::yes, end - begin, out, in, 1, px + begin * in, in, pw, in, 1, py + begin * out, out);
  });
}

void linear_forward_cpu(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y) {
  dispatch_float("linear", x.dtype(), [&]<typename T>() {
    if (b) return forward_with_bias<T>(x, w, b, y);
    const std::int64_t out = w.size(0), in = w.size(1);
    gemm<T>(Trans::no, Trans::yes, x.shape().rows(), out, in, 1, x.data<T>(), in, w.data<T>(), in, 0, y.data<T>(), out);
  });
}

void linear_backward_data_cpu(const Tensor& dy, const Tensor& w, Tensor& dx) {
  dispatch_float("linear", dy.dtype(), [&]<typename T>() {
    const std::int64_t out = w.size(0), in = w.size(1);
    gemm<T>(Trans::no, Trans::no, dy.shape().rows(), in, out, 1, dy.data<T>(), out, w.data<T>(), in, 0, dx.data<T>(),
            in);
  });
}

void linear_backward_weight_cpu(const Tensor& dy, const Tensor& x, Tensor& dw) {
  dispatch_float("linear", dy.dtype(), [&]<typename T>() {
    const std::int64_t out = dw.size(0), in = dw.size(1);
    gemm<T>(Trans::yes, Trans::no, out, in, dy.shape().rows(), 1, dy.data<T>(), out, x.data<T>(), in, 1, dw.data<T>(),
            in);
  });
}

}  // namespace

constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, Tensor&)> linear_forward{"linear_forward",
                                                                                            linear_forward_cpu};
constinit Kernel<void(const Tensor&, const Tensor&, Tensor&)> linear_backward_data{"linear_backward_data",
                                                                                   linear_backward_data_cpu};
constinit Kernel<void(const Tensor&, const Tensor&, Tensor&)> linear_backward_weight{"linear_backward_weight",
                                                                                     linear_backward_weight_cpu};
constinit Kernel<void(const Tensor&, Tensor&)> bias_backward{"bias_backward", bias_backward_cpu};

}  // namespace dattn
#endif
