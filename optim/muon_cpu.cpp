// CPU kernel of Muon's momentum.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "optim/muon_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include "core/parallel.h"
#include "core/simd.h"
#include "optim/muon.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

void MuonMomentum(const Tensor& grad, Tensor& m, Tensor& u, const Tensor& numbers, const MuonOptions& options) {
  dispatch_float("muon", grad.dtype(), [&]<typename T>() HWY_ATTR {
    const T* pg = grad.data<T>();
    T *pm = m.data<T>(), *pu = u.data<T>();
    const T momentum = static_cast<T>(options.momentum);
    const T scale = static_cast<T>(get_numbers<MuonNumbers>(numbers).gradient_scale);
    parallel_for(grad.elements(), kElementTile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      for_lanes<T>(end - begin, [&](auto d, std::int64_t i) HWY_ATTR {
        const auto g = hn::Mul(hn::Set(d, scale), hn::LoadU(d, pg + begin + i));
        const auto running = hn::MulAdd(hn::Set(d, momentum), hn::LoadU(d, pm + begin + i), g);
        hn::StoreU(running, d, pm + begin + i);
        hn::StoreU(options.nesterov ? hn::MulAdd(hn::Set(d, momentum), running, g) : running, d, pu + begin + i);
      });
    });
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(MuonMomentum);
static void muon_momentum_cpu(const Tensor& grad, Tensor& m, Tensor& u, const Tensor& numbers,
                              const MuonOptions& options) {
  HWY_DYNAMIC_DISPATCH(MuonMomentum)(grad, m, u, numbers, options);
}
constinit Kernel<void(const Tensor&, Tensor&, Tensor&, const Tensor&, const MuonOptions&)> muon_momentum{
    "muon_momentum", muon_momentum_cpu};

}  // namespace dattn
#endif
