// SIMD over Highway: included once for each instruction set by a kernel file that opens with
//   #undef HWY_TARGET_INCLUDE
//   #define HWY_TARGET_INCLUDE "room/this_file.cpp"
//   #include "hwy/foreach_target.h"
//   #include "core/simd.h"
// and holds its kernels in `namespace dattn::HWY_NAMESPACE` between HWY_BEFORE_NAMESPACE() and HWY_AFTER_NAMESPACE().
// Lambdas in there carry HWY_ATTR. Code after `#if HWY_ONCE` is compiled once and picks the instruction set at run time by
// HWY_EXPORT and HWY_DYNAMIC_DISPATCH.
#if defined(DATTN_CORE_SIMD_H_) == defined(HWY_TARGET_TOGGLE)  // the usual guard, once for each instruction set
#ifdef DATTN_CORE_SIMD_H_
#undef DATTN_CORE_SIMD_H_
#else
#define DATTN_CORE_SIMD_H_
#endif

#include <cstdint>

#include "hwy/highway.h"
//
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Full vectors of T, and vectors of one element for what is left over: the same arithmetic, so an element's result does not
/// depend on its place.
template <typename T>
using Wide = hn::ScalableTag<T>;
template <typename T>
using One = hn::CappedTag<T, 1>;

/// Calls f(d, i) for i = 0, lanes, 2 lanes, ... with the tag of a full vector, then element by element.
template <typename T, typename F>
HWY_INLINE void for_lanes(std::int64_t n, F&& f) {
  const Wide<T> wide;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(wide));
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) f(wide, i);
  const One<T> one;
  for (; i < n; ++i) f(one, i);
}

/// Sum over [0, n) of the vectors f(d, i), in a fixed order: two running vectors, their lanes, then the rest.
template <typename T, typename F>
HWY_INLINE T sum_lanes(std::int64_t n, F&& f) {
  const Wide<T> wide;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(wide));
  auto even = hn::Zero(wide), odd = hn::Zero(wide);
  std::int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    even = hn::Add(even, f(wide, i));
    odd = hn::Add(odd, f(wide, i + lanes));
  }
  for (; i + lanes <= n; i += lanes) even = hn::Add(even, f(wide, i));
  T sum = hn::GetLane(hn::SumOfLanes(wide, hn::Add(even, odd)));
  const One<T> one;
  for (; i < n; ++i) sum += hn::GetLane(f(one, i));
  return sum;
}

/// Largest of the vectors f(d, i) over [0, n); `least` where n is 0.
template <typename T, typename F>
HWY_INLINE T max_lanes(std::int64_t n, T least, F&& f) {
  const Wide<T> wide;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(wide));
  auto most = hn::Set(wide, least);
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) most = hn::Max(most, f(wide, i));
  T largest = hn::GetLane(hn::MaxOfLanes(wide, most));
  const One<T> one;
  for (; i < n; ++i) {
    const T v = hn::GetLane(f(one, i));
    largest = v > largest ? v : largest;
  }
  return largest;
}

/// y[i] += a * x[i].
template <typename T>
HWY_INLINE void axpy(std::int64_t n, T a, const T* x, T* y) {
  for_lanes<T>(n, [&](auto d, std::int64_t i) HWY_ATTR {
    hn::StoreU(hn::MulAdd(hn::Set(d, a), hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, y + i);
  });
}

/// Sum of x[i] * y[i].
template <typename T>
HWY_INLINE T dot(std::int64_t n, const T* x, const T* y) {
  return sum_lanes<T>(n, [&](auto d, std::int64_t i) HWY_ATTR { return hn::Mul(hn::LoadU(d, x + i), hn::LoadU(d, y + i)); });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
