// CPU kernels of LayerNorm: a row stays in the L1 cache between its passes, and is read from memory once.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/layernorm_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <cmath>

#include "core/memory.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "layers/layernorm.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// Rows a tile: some 64 KiB of floats, and enough of them that merging dw and db costs little.
inline std::int64_t layernorm_tile(std::int64_t C) { return std::max<std::int64_t>(64, 16384 / C); }

template <typename T>
struct RowStatistics {
  T mean, s;
};

template <typename T>
HWY_INLINE RowStatistics<T> row_statistics(std::int64_t C, const T* x, double eps) {
  const T mean =
      sum_lanes<T>(C, [&](auto d, std::int64_t c) HWY_ATTR { return hn::LoadU(d, x + c); }) / static_cast<T>(C);
  const T squares = sum_lanes<T>(C, [&](auto d, std::int64_t c) HWY_ATTR {
    const auto v = hn::Sub(hn::LoadU(d, x + c), hn::Set(d, mean));
    return hn::Mul(v, v);
  });
  return {mean, 1 / std::sqrt(squares / static_cast<T>(C) + static_cast<T>(eps))};
}

void LayerNormForward(const Tensor& x, const Tensor& w, const Tensor& b, double eps, Tensor& y) {
  dispatch_float("layernorm", x.dtype(), [&]<typename T>() HWY_ATTR {
    const std::int64_t C = x.size(-1);
    const T *pw = w.data<T>(), *pb = b.data<T>(), *all_x = x.data<T>();
    T* all_y = y.data<T>();
    parallel_for(x.shape().rows(), layernorm_tile(C), [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      for (std::int64_t row = begin; row < end; ++row) {
        const T* px = all_x + row * C;
        T* py = all_y + row * C;
        const auto [mean, s] = row_statistics(C, px, eps);
        for_lanes<T>(C, [&, mean = mean, s = s](auto d, std::int64_t c) HWY_ATTR {
          const auto xhat = hn::Mul(hn::Sub(hn::LoadU(d, px + c), hn::Set(d, mean)), hn::Set(d, s));
          hn::StoreU(hn::MulAdd(xhat, hn::LoadU(d, pw + c), hn::LoadU(d, pb + c)), d, py + c);
        });
      }
    });
  });
}

// One row: dx is written where given, dw and db are added to.
template <typename T>
HWY_INLINE void backward_row(std::int64_t C, const T* dy, const T* x, const T* w, double eps, T* dx, T* dw, T* db) {
  const auto [m, s] = row_statistics(C, x, eps);
  const T mean = m, scale = s;
  T sum_g = 0, sum_g_xhat = 0;
  if (dx) {
    sum_g = dot(C, dy, w);
    sum_g_xhat = scale * sum_lanes<T>(C, [&](auto d, std::int64_t c) HWY_ATTR {
                   const auto g = hn::Mul(hn::LoadU(d, dy + c), hn::LoadU(d, w + c));
                   return hn::Mul(g, hn::Sub(hn::LoadU(d, x + c), hn::Set(d, mean)));
                 });
  }
  const T mean_g = sum_g / static_cast<T>(C), mean_g_xhat = sum_g_xhat / static_cast<T>(C);
  for_lanes<T>(C, [&](auto d, std::int64_t c) HWY_ATTR {
    const auto v = hn::LoadU(d, dy + c);
    const auto xhat = hn::Mul(hn::Sub(hn::LoadU(d, x + c), hn::Set(d, mean)), hn::Set(d, scale));
    hn::StoreU(hn::MulAdd(v, xhat, hn::LoadU(d, dw + c)), d, dw + c);
    hn::StoreU(hn::Add(v, hn::LoadU(d, db + c)), d, db + c);
    if (!dx) return;
    const auto centred = hn::Sub(hn::Mul(v, hn::LoadU(d, w + c)), hn::Set(d, mean_g));
    hn::StoreU(hn::Mul(hn::NegMulAdd(xhat, hn::Set(d, mean_g_xhat), centred), hn::Set(d, scale)), d, dx + c);
  });
}

void LayerNormBackward(const Tensor& dy, const Tensor& x, const Tensor& w, double eps, Tensor& dx, Tensor& dw,
                       Tensor& db) {
  dispatch_float("layernorm", x.dtype(), [&]<typename T>() HWY_ATTR {
    const std::int64_t C = x.size(-1), rows = x.shape().rows(), tile = layernorm_tile(C),
                       tiles = tile_count(rows, tile);
    const T *all_dy = dy.data<T>(), *all_x = x.data<T>(), *pw = w.data<T>();
    T* all_dx = dx ? dx.data<T>() : nullptr;
    Scratch<T> partials(static_cast<std::size_t>(2 * tiles * C));  // dw, db of each tile
    parallel_for(rows, tile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      T *tile_dw = partials.data() + begin / tile * 2 * C, *tile_db = tile_dw + C;
      std::fill_n(tile_dw, 2 * C, T(0));
      for (std::int64_t row = begin; row < end; ++row) {
        backward_row(C, all_dy + row * C, all_x + row * C, pw, eps, all_dx ? all_dx + row * C : nullptr, tile_dw,
                     tile_db);
      }
    });
    for (const auto& [gradient, offset] : {std::pair{&dw, std::int64_t{0}}, std::pair{&db, C}}) {
      if (!*gradient) continue;
      Scratch<double> sum(static_cast<std::size_t>(C));
      std::fill_n(sum.data(), C, 0.0);
      for (std::int64_t t = 0; t < tiles; ++t) {
        for (std::int64_t c = 0; c < C; ++c) sum.data()[c] += partials.data()[t * 2 * C + offset + c];
      }
      for (std::int64_t c = 0; c < C; ++c) gradient->template data<T>()[c] += static_cast<T>(sum.data()[c]);
    }
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(LayerNormForward);
static void layernorm_forward_cpu(const Tensor& x, const Tensor& w, const Tensor& b, double eps, Tensor& y) {
  HWY_DYNAMIC_DISPATCH(LayerNormForward)(x, w, b, eps, y);
}
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, double, Tensor&)> layernorm_forward{
    "layernorm_forward", layernorm_forward_cpu};

HWY_EXPORT(LayerNormBackward);
static void layernorm_backward_cpu(const Tensor& dy, const Tensor& x, const Tensor& w, double eps, Tensor& dx,
                                   Tensor& dw, Tensor& db) {
  HWY_DYNAMIC_DISPATCH(LayerNormBackward)(dy, x, w, eps, dx, dw, db);
}
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, double, Tensor&, Tensor&, Tensor&)>
    layernorm_backward{"layernorm_backward", layernorm_backward_cpu};

}  // namespace dattn
#endif
