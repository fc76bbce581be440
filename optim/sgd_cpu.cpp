// CPU kernel of SGD.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "optim/sgd_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include "core/parallel.h"
#include "core/simd.h"
#include "optim/sgd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

template <typename T>
void SgdTile(std::int64_t n, T* w, const T* grad, T* m, const SgdNumbers& numbers, const SgdOptions& options) {
  const auto lr = static_cast<T>(-numbers.lr), momentum = static_cast<T>(options.momentum);
  const auto decay = static_cast<T>(numbers.weight_decay), scale = static_cast<T>(numbers.gradient_scale);
  for_lanes<T>(n, [&](auto d, std::int64_t i) HWY_ATTR {
    const auto old = hn::LoadU(d, w + i);
    const auto g = hn::MulAdd(hn::Set(d, decay), old, hn::Mul(hn::Set(d, scale), hn::LoadU(d, grad + i)));
    auto direction = g;
    if (m) {
      const auto running = hn::MulAdd(hn::Set(d, momentum), hn::LoadU(d, m + i), g);
      hn::StoreU(running, d, m + i);
      direction = options.nesterov ? hn::MulAdd(hn::Set(d, momentum), running, g) : running;
    }
    hn::StoreU(hn::MulAdd(hn::Set(d, lr), direction, old), d, w + i);
  });
}

void SgdUpdate(Tensor& w, const Tensor& grad, Tensor& m, const Tensor& numbers, const SgdOptions& options) {
  const auto these = get_numbers<SgdNumbers>(numbers);
  dispatch_float("sgd", w.dtype(), [&]<typename T>() HWY_ATTR {
    T *pw = w.data<T>(), *pm = m ? m.data<T>() : nullptr;
    const T* pg = grad.data<T>();
    parallel_for(w.elements(), kElementTile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      SgdTile<T>(end - begin, pw + begin, pg + begin, pm ? pm + begin : nullptr, these, options);
    });
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(SgdUpdate);
static void sgd_update_cpu(Tensor& w, const Tensor& grad, Tensor& m, const Tensor& numbers, const SgdOptions& options) {
  HWY_DYNAMIC_DISPATCH(SgdUpdate)(w, grad, m, numbers, options);
}
constinit Kernel<void(Tensor&, const Tensor&, Tensor&, const Tensor&, const SgdOptions&)> sgd_update{"sgd_update",
                                                                                                     sgd_update_cpu};

}  // namespace dattn
#endif
