// CPU kernels of the norm and of scaling.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "optim/gradient_norm_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <type_traits>

#include "core/parallel.h"
#include "core/simd.h"
#include "optim/gradient_norm.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

template <typename T>
double SumOfSquaresTile(std::int64_t n, const T* x) {
  return sum_lanes<double>(n, [&](auto d, std::int64_t i) HWY_ATTR {
    if constexpr (std::is_same_v<T, double>) {
      const auto v = hn::LoadU(d, x + i);
      return hn::Mul(v, v);
    } else {
      const auto v = hn::PromoteTo(d, hn::LoadU(hn::Rebind<T, decltype(d)>(), x + i));
      return hn::Mul(v, v);
    }
  });
}

void SumOfSquares(const Tensor& x, Tensor& sum) {
  dispatch_float("norm", x.dtype(), [&]<typename T>() HWY_ATTR {
    const T* px = x.data<T>();
    const std::int64_t n = x.elements(), tiles = tile_count(n, kElementTile);
    Scratch<double> partial(static_cast<std::size_t>(tiles));
    parallel_for(n, kElementTile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      partial[static_cast<std::size_t>(begin / kElementTile)] = SumOfSquaresTile<T>(end - begin, px + begin);
    });
    double total = 0;
    for (std::int64_t i = 0; i < tiles; ++i) total += partial[static_cast<std::size_t>(i)];
    sum.data<double>()[0] = total;
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(SumOfSquares);
static void sum_of_squares_cpu(const Tensor& x, Tensor& sum) { HWY_DYNAMIC_DISPATCH(SumOfSquares)(x, sum); }
constinit Kernel<void(const Tensor&, Tensor&)> sum_of_squares{"sum_of_squares", sum_of_squares_cpu};

}  // namespace dattn
#endif
