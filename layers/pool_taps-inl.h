// Maxima of windows and where in them they were, as vectors and as bytes. Included by kernel files as core/simd.h is.
#if defined(DATTN_LAYERS_POOL_TAPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DATTN_LAYERS_POOL_TAPS_INL_H_
#undef DATTN_LAYERS_POOL_TAPS_INL_H_
#else
#define DATTN_LAYERS_POOL_TAPS_INL_H_
#endif

#include <cstdint>

#include "core/simd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

/// Makes v, at `tap` of its window, the maximum where it is larger than `best` or NaN: the first of equal values stays.
template <class D, class V, class Places>
HWY_INLINE void keep_larger(D, V v, std::int64_t tap, V& best, Places& place) {
  const hn::RebindToUnsigned<D> du;
  const auto larger = hn::Or(hn::Gt(v, best), hn::IsNaN(v));
  best = hn::IfThenElse(larger, v, best);
  place = hn::IfThenElse(hn::RebindMask(du, larger), hn::Set(du, static_cast<hn::TFromD<decltype(du)>>(tap)), place);
}

// Places in a window travel as unsigned integers of the values' width (D's), and are stored in fewer bytes.
template <class D, class V, typename Tap>
HWY_INLINE void store_taps(D, V taps, Tap* to) {
  using Narrow = hwy::MakeUnsigned<Tap>;
  const hn::Rebind<Narrow, D> narrow;
  auto* place = reinterpret_cast<Narrow*>(to);
  if constexpr (sizeof(hn::TFromD<D>) == sizeof(Tap)) {
    hn::StoreU(taps, narrow, place);
  } else {
    hn::StoreU(hn::TruncateTo(narrow, taps), narrow, place);
  }
}

template <class D, typename Tap>
HWY_INLINE auto load_taps(D, const Tap* from) {
  using Narrow = hwy::MakeUnsigned<Tap>;
  const hn::RebindToUnsigned<D> wide;
  const auto narrow = hn::LoadU(hn::Rebind<Narrow, D>(), reinterpret_cast<const Narrow*>(from));
  if constexpr (sizeof(hn::TFromD<D>) == sizeof(Tap)) {
    return narrow;
  } else if constexpr (sizeof(hn::TFromD<D>) == 8 && sizeof(Tap) == 1) {
    return hn::PromoteTo(wide, hn::PromoteTo(hn::Rebind<std::uint32_t, D>(), narrow));
  } else {
    return hn::PromoteTo(wide, narrow);
  }
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
