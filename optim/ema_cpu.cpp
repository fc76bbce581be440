// CPU kernels of the moving average.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "optim/ema_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include "core/parallel.h"
#include "core/simd.h"
#include "optim/ema.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

void EmaUpdate(const Tensor& numbers, const Tensor& weight, Tensor& average) {
  dispatch_float("ema", weight.dtype(), [&]<typename T>() HWY_ATTR {
    const T* w = weight.data<T>();
    T* a = average.data<T>();
    const auto gain = static_cast<T>(get_numbers<EmaNumbers>(numbers).gain);
    parallel_for(weight.elements(), kElementTile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      for_lanes<T>(end - begin, [&](auto d, std::int64_t i) HWY_ATTR {
        const auto old = hn::LoadU(d, a + begin + i);
        hn::StoreU(hn::MulAdd(hn::Set(d, gain), hn::Sub(hn::LoadU(d, w + begin + i), old), old), d, a + begin + i);
      });
    });
  });
}

void SwapElements(Tensor& a, Tensor& b) {
  dispatch_float("swap_elements", a.dtype(), [&]<typename T>() HWY_ATTR {
    T *pa = a.data<T>(), *pb = b.data<T>();
    parallel_for(a.elements(), kElementTile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      for_lanes<T>(end - begin, [&](auto d, std::int64_t i) HWY_ATTR {
        const auto va = hn::LoadU(d, pa + begin + i), vb = hn::LoadU(d, pb + begin + i);
        hn::StoreU(vb, d, pa + begin + i);
        hn::StoreU(va, d, pb + begin + i);
      });
    });
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(EmaUpdate);
static void ema_update_cpu(const Tensor& numbers, std::vector<EmaPair>& pairs) {
  for (EmaPair& pair : pairs) HWY_DYNAMIC_DISPATCH(EmaUpdate)(numbers, pair.weight, pair.average);
}
constinit Kernel<void(const Tensor&, std::vector<EmaPair>&)> ema_update{"ema_update", ema_update_cpu};

HWY_EXPORT(SwapElements);
static void exchange_cpu(Tensor& a, Tensor& b) { HWY_DYNAMIC_DISPATCH(SwapElements)(a, b); }
constinit Kernel<void(Tensor&, Tensor&)> swap_elements{"swap_elements", exchange_cpu};

}  // namespace dattn
#endif
