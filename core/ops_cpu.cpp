// CPU kernels of the basic operations.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/ops_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include "core/ops.h"
#include "core/parallel.h"
#include "core/simd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

constexpr std::int64_t kTile = 16384;  // elements a tile: large beside the cost of a fork, small beside the L2 cache

void AddForward(const Tensor& a, const Tensor& b, Tensor& y) {
  dispatch_float("add", y.dtype(), [&]<typename T>() HWY_ATTR {
    const T *pa = a.data<T>(), *pb = b.data<T>();
    T* py = y.data<T>();
    parallel_for(y.elements(), kTile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      for_lanes<T>(end - begin, [&](auto d, std::int64_t i) HWY_ATTR {
        hn::StoreU(hn::Add(hn::LoadU(d, pa + begin + i), hn::LoadU(d, pb + begin + i)), d, py + begin + i);
      });
    });
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(AddForward);
static void add_forward_cpu(const Tensor& a, const Tensor& b, Tensor& y) { HWY_DYNAMIC_DISPATCH(AddForward)(a, b, y); }
constinit Kernel<void(const Tensor&, const Tensor&, Tensor&)> add_forward{"add_forward", add_forward_cpu};

}  // namespace dattn
#endif
