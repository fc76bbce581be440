// CPU kernels of the basic operations that compute: element by element, and sums.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "core/loops.h"
#include "core/ops.h"
#include "core/parallel.h"
#include "core/simd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// y[i] = f(a[i], b[i]) on vectors; S is the type in memory.
template <typename S, typename F>
void combine(const Tensor& a, const Tensor& b, Tensor& y, F f) {
  const S *pa = a.data<S>(), *pb = b.data<S>();
  S* py = y.data<S>();
  parallel_for(y.elements(), kElementTile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
    for_lanes<Exact<S>>(end - begin, [&](auto d, std::int64_t i) HWY_ATTR {
      store(f(load(d, pa + begin + i), load(d, pb + begin + i)), d, py + begin + i);
    });
  });
}

void AddForward(const Tensor& a, const Tensor& b, Tensor& y) {
  dispatch_activations("add", y.dtype(), [&]<typename S>() HWY_ATTR {
    combine<S>(a, b, y, [](auto va, auto vb) HWY_ATTR { return hn::Add(va, vb); });
  });
}

void MulForward(const Tensor& a, const Tensor& b, Tensor& y) {
  dispatch_activations("mul", y.dtype(), [&]<typename S>() HWY_ATTR {
    combine<S>(a, b, y, [](auto va, auto vb) HWY_ATTR { return hn::Mul(va, vb); });
  });
}

// y[i] = factor x[i].
template <typename T>
HWY_INLINE void scale_row(std::int64_t n, T factor, const T* x, T* y) {
  for_lanes<T>(n, [&](auto d, std::int64_t i)
                      HWY_ATTR { hn::StoreU(hn::Mul(hn::Set(d, factor), hn::LoadU(d, x + i)), d, y + i); });
}

void ScaleForward(const Tensor& x, double factor, Tensor& y) {
  dispatch_float("scale", y.dtype(), [&]<typename T>() HWY_ATTR {
    const T* px = x.data<T>();
    T* py = y.data<T>();
    parallel_for(y.elements(), kElementTile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      scale_row(end - begin, static_cast<T>(factor), px + begin, py + begin);
    });
  });
}

// sums [columns] = the sum of `rows` rows of x, which lie `step` elements apart.
template <typename T>
HWY_INLINE void sum_rows(std::int64_t rows, std::int64_t columns, std::int64_t step, const T* x, T* sums) {
  if (columns == 1 && step == 1) {
    *sums = sum_lanes<T>(rows, [&](auto d, std::int64_t i) HWY_ATTR { return hn::LoadU(d, x + i); });
    return;
  }
  std::fill_n(sums, columns, T(0));
  for (; rows >= 4; rows -= 4, x += 4 * step) {
    for_lanes<T>(columns, [&](auto d, std::int64_t i) HWY_ATTR {
      const auto pair = hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, x + step + i));
      const auto next = hn::Add(hn::LoadU(d, x + 2 * step + i), hn::LoadU(d, x + 3 * step + i));
      hn::StoreU(hn::Add(hn::LoadU(d, sums + i), hn::Add(pair, next)), d, sums + i);
    });
  }
  for (; rows > 0; --rows, x += step) axpy<T>(columns, 1, x, sums);
}

// y [outer, inner] = factor * (sum over n of x [outer, n, inner]). Long sums are cut into parts,
// wide rows into blocks, each with a partial sum of its own.
template <typename T>
void sum_middle(std::int64_t outer, std::int64_t n, std::int64_t inner, const T* x, T factor, T* y) {
  constexpr std::int64_t kBlock = 1024, kParts = 64;
  const std::int64_t width = std::clamp<std::int64_t>(inner, 1, kBlock), blocks = tile_count(inner, width);
  const std::int64_t rows = std::max({std::int64_t{1}, kElementTile / width, tile_count(n, kParts)});
  const std::int64_t parts = std::max<std::int64_t>(1, tile_count(n, rows));
  Scratch<T> partial(static_cast<std::size_t>(outer * parts * inner));
  const std::int64_t work = std::max<std::int64_t>(1, std::min(n, rows) * width);  // additions of a task
  parallel_for(outer * parts * blocks, std::max<std::int64_t>(1, kElementTile / work),
               [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
                 for (std::int64_t task = begin; task < end; ++task) {
                   const std::int64_t o = task / (parts * blocks), p = task / blocks % parts, first = p * rows,
                                      c = task % blocks * width;
                   sum_rows(std::min(n, first + rows) - first, std::min(width, inner - c), inner,
                            x + (o * n + first) * inner + c, partial.data() + (o * parts + p) * inner + c);
                 }
               });
  parallel_for(outer, std::max<std::int64_t>(1, kElementTile / (parts * width)),
               [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
                 for (std::int64_t o = begin; o < end; ++o) {
                   T* const first = partial.data() + o * parts * inner;
                   for (std::int64_t p = 1; p < parts; ++p) axpy<T>(inner, 1, first + p * inner, first);
                   scale_row(inner, factor, first, y + o * inner);
                 }
               });
}

void SumForward(const Tensor& x, int dim, double factor, Tensor& y) {
  const Split s(x.shape(), dim);
  dispatch_float("sum", y.dtype(), [&]<typename T>() HWY_ATTR {
    sum_middle(s.outer, s.n, s.inner, x.data<T>(), static_cast<T>(factor), y.data<T>());
  });
}

void SumBackward(const Tensor& dy, int dim, double factor, Tensor& dx) {
  const Split s(dx.shape(), dim);
  dispatch_float("sum", dx.dtype(), [&]<typename T>() HWY_ATTR {
    const T* pdy = dy.data<T>();
    T* pdx = dx.data<T>();
    const std::int64_t tile = std::max<std::int64_t>(1, kElementTile / std::max<std::int64_t>(1, s.inner));
    parallel_for(s.outer * s.n, tile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      for (std::int64_t row = begin; row < end; ++row) {
        scale_row(s.inner, static_cast<T>(factor), pdy + row / s.n * s.inner, pdx + row * s.inner);
      }
    });
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(AddForward);
static void add_forward_cpu(const Tensor& a, const Tensor& b, Tensor& y) { HWY_DYNAMIC_DISPATCH(AddForward)(a, b, y); }
constinit Kernel<void(const Tensor&, const Tensor&, Tensor&)> add_forward{"add_forward", add_forward_cpu,
                                                                          Bfloat16::native};

HWY_EXPORT(MulForward);
static void mul_forward_cpu(const Tensor& a, const Tensor& b, Tensor& y) { HWY_DYNAMIC_DISPATCH(MulForward)(a, b, y); }
constinit Kernel<void(const Tensor&, const Tensor&, Tensor&)> mul_forward{"mul_forward", mul_forward_cpu,
                                                                          Bfloat16::native};

HWY_EXPORT(ScaleForward);
static void scale_forward_cpu(const Tensor& x, double factor, Tensor& y) {
  HWY_DYNAMIC_DISPATCH(ScaleForward)(x, factor, y);
}
constinit Kernel<void(const Tensor&, double, Tensor&)> scale_forward{"scale_forward", scale_forward_cpu};

HWY_EXPORT(SumForward);
static void sum_forward_cpu(const Tensor& x, int dim, double factor, Tensor& y) {
  HWY_DYNAMIC_DISPATCH(SumForward)(x, dim, factor, y);
}
constinit Kernel<void(const Tensor&, int, double, Tensor&)> sum_forward{"sum_forward", sum_forward_cpu};

HWY_EXPORT(SumBackward);
static void sum_backward_cpu(const Tensor& dy, int dim, double factor, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(SumBackward)(dy, dim, factor, dx);
}
constinit Kernel<void(const Tensor&, int, double, Tensor&)> sum_backward{"sum_backward", sum_backward_cpu};

}  // namespace dattn
#endif
