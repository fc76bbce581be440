// CPU kernel of Adam and AdamW.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "optim/adam_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include "core/parallel.h"
#include "core/simd.h"
#include "optim/adam.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

template <typename T>
void AdamTile(std::int64_t n, T* w, const T* grad, T* m, T* v, const AdamNumbers& numbers, const AdamOptions& options) {
  const auto rate = static_cast<T>(-numbers.rate);
  const auto root = static_cast<T>(numbers.root), eps = static_cast<T>(options.eps);
  const auto new1 = static_cast<T>(1 - options.beta1), new2 = static_cast<T>(1 - options.beta2);
  const auto old2 = static_cast<T>(options.beta2), keep = static_cast<T>(numbers.keep);
  const auto decay = static_cast<T>(numbers.gradient_decay), scale = static_cast<T>(numbers.gradient_scale);
  for_lanes<T>(n, [&](auto d, std::int64_t i) HWY_ATTR {
    const auto old = hn::LoadU(d, w + i), old_m = hn::LoadU(d, m + i);
    const auto g = hn::MulAdd(hn::Set(d, decay), old, hn::Mul(hn::Set(d, scale), hn::LoadU(d, grad + i)));
    const auto new_m = hn::MulAdd(hn::Set(d, new1), hn::Sub(g, old_m), old_m);
    const auto new_v = hn::MulAdd(hn::Set(d, old2), hn::LoadU(d, v + i), hn::Mul(hn::Set(d, new2), hn::Mul(g, g)));
    const auto denominator = hn::MulAdd(hn::Sqrt(new_v), hn::Set(d, root), hn::Set(d, eps));
    hn::StoreU(new_m, d, m + i);
    hn::StoreU(new_v, d, v + i);
    hn::StoreU(hn::MulAdd(hn::Set(d, rate), hn::Div(new_m, denominator), hn::Mul(hn::Set(d, keep), old)), d, w + i);
  });
}

void AdamUpdate(Tensor& w, const Tensor& grad, Tensor& m, Tensor& v, const Tensor& numbers,
                const AdamOptions& options) {
  const auto these = get_numbers<AdamNumbers>(numbers);
  dispatch_float("adam", w.dtype(), [&]<typename T>() HWY_ATTR {
    T *pw = w.data<T>(), *pm = m.data<T>(), *pv = v.data<T>();
    const T* pg = grad.data<T>();
    parallel_for(w.elements(), kElementTile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      AdamTile<T>(end - begin, pw + begin, pg + begin, pm + begin, pv + begin, these, options);
    });
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(AdamUpdate);
static void adam_update_cpu(Tensor& w, const Tensor& grad, Tensor& m, Tensor& v, const Tensor& numbers,
                            const AdamOptions& options) {
  HWY_DYNAMIC_DISPATCH(AdamUpdate)(w, grad, m, v, numbers, options);
}
constinit Kernel<void(Tensor&, const Tensor&, Tensor&, Tensor&, const Tensor&, const AdamOptions&)> adam_update{
    "adam_update", adam_update_cpu};

}  // namespace dattn
#endif
