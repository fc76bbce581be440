// SIMD over Highway: included once for each instruction set by a kernel file that opens with
//   #undef HWY_TARGET_INCLUDE
//   #define HWY_TARGET_INCLUDE "layers/this_file.cpp"
//   #include "hwy/foreach_target.h"
//   #include "core/simd.h"
// and holds its kernels in `namespace dattn::HWY_NAMESPACE` between HWY_BEFORE_NAMESPACE() and HWY_AFTER_NAMESPACE().
// Lambdas in there carry HWY_ATTR. Code after `#if HWY_ONCE` is compiled once and picks the instruction set at run time
// by HWY_EXPORT and HWY_DYNAMIC_DISPATCH.
#if defined(DATTN_CORE_SIMD_H_) == defined(HWY_TARGET_TOGGLE)  // the usual guard, once for each instruction set
#ifdef DATTN_CORE_SIMD_H_
#undef DATTN_CORE_SIMD_H_
#else
#define DATTN_CORE_SIMD_H_
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"
//
#include "core/dtype.h"
#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Full vectors of T, and vectors of one element for what is left over: the same arithmetic, so an element's result
/// does not depend on its place.
template <typename T>
using Wide = hn::ScalableTag<T>;
template <typename T>
using One = hn::CappedTag<T, 1>;

/// Numbers as vectors to compute with, from memory in the same type or in bfloat16.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V load(D d, const hn::TFromD<D>* from) {
  return hn::LoadU(d, from);
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE V load(D d, const bfloat16* from) {
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  const auto bits = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(from)));
  return hn::BitCast(d, hn::ShiftLeft<16>(bits));
}

/// And back: to bfloat16 rounded to nearest, ties to even, as its constructor rounds; NaN stays NaN.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void store(V v, D d, hn::TFromD<D>* to) {
  hn::StoreU(v, d, to);
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE void store(V v, D d, bfloat16* to) {
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  const hn::RebindToSigned<D> signed32;
  const auto bits = hn::BitCast(d32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fff))));
  const auto nan = hn::Or(hn::ShiftRight<16>(bits), hn::Set(d32, 0x40));
  const auto either = hn::BitCast(d32, hn::IfThenElse(hn::Eq(v, v), hn::BitCast(d, rounded), hn::BitCast(d, nan)));
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(signed32, either)), d16, reinterpret_cast<std::uint16_t*>(to));
}

/// The larger of x and `least`, and NaN where x is NaN. (Of a NaN and a number, hn::Max gives its second argument on x86,
/// the number on Arm and in plain code.)
template <class D, class V = hn::Vec<D>>
HWY_INLINE V at_least(D /* d */, V x, V least) {
  constexpr bool kSecond = HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR;
  return kSecond ? hn::Max(least, x) : hn::IfThenElse(hn::Lt(x, least), least, x);
}

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

/// Calls f(d, i) for i in [begin, end) by full vectors, then by halves, quarters and so on: for short loops, as over
/// the channels of a head.
template <typename D, typename F>
HWY_INLINE void for_channels(D d, std::int64_t begin, std::int64_t end, F&& f) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (; begin + lanes <= end; begin += lanes) f(d, begin);
  if constexpr (hn::MaxLanes(D()) > 1) {
    if (begin < end) for_channels(hn::Half<D>(), begin, end, f);
  }
}

/// Calls f(d, V, i) with V = 4 (an integral constant) where four full vectors fit, then V = 1: for loops that keep V
/// running vectors, since one alone would wait for its own last addition.
template <typename T, typename F>
HWY_INLINE void for_blocks(std::int64_t n, F&& f) {
  const Wide<T> wide;
  const auto block = 4 * static_cast<std::int64_t>(hn::Lanes(wide));
  std::int64_t i = 0;
  for (; i + block <= n; i += block) f(wide, std::integral_constant<int, 4>(), i);
  for_lanes<T>(n - i, [&](auto d, std::int64_t j) HWY_ATTR { f(d, std::integral_constant<int, 1>(), i + j); });
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

/// Sum of x[i] * y[i], in float where one of them is bfloat16.
template <typename X, typename Y>
HWY_INLINE Exact<X> dot(std::int64_t n, const X* x, const Y* y) {
  return sum_lanes<Exact<X>>(n,
                             [&](auto d, std::int64_t i) HWY_ATTR { return hn::Mul(load(d, x + i), load(d, y + i)); });
}

// --- elementary functions: NaN stays NaN, and infinities give the limit ---

/// e^x to 1 ulp. Overflows to infinity, and to zero, as std::exp does (hn::Exp does neither, and turns NaN into 0).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp(D d, V x) {
  using T = hn::TFromD<D>;
  const V y = hn::Exp(d, hn::Min(x, hn::Set(d, static_cast<T>(sizeof(T) == 4 ? 104 : 720))));
  return hn::IfThenElse(hn::Eq(x, x), y, x);
}

/// tanh(x) to 4 ulp.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V tanh(D d, V x) {
  return hn::Tanh(d, x);
}

/// a[kFirst] + a[kFirst + kEvery] t + a[kFirst + 2 kEvery] t^2 + ... as even part + t * odd part, each a polynomial in
/// t^2 of every other term, and so on: a short chain of products that wait for each other (the compiler finds the
/// common squares).
template <std::size_t kFirst = 0, std::size_t kEvery = 1, class D, std::size_t N, class V = hn::Vec<D>>
HWY_INLINE V polynomial(D d, V t, const hn::TFromD<D> (&a)[N]) {
  if constexpr (kFirst + kEvery >= N) {
    return hn::Set(d, a[kFirst]);
  } else {
    const V square = hn::Mul(t, t);
    return hn::MulAdd(polynomial<kFirst + kEvery, 2 * kEvery>(d, square, a), t,
                      polynomial<kFirst, 2 * kEvery>(d, square, a));
  }
}

/// An odd function with the limits +-kLimit, reached at |x| = kEdge: x times a polynomial in t = 2 (x / kEdge)^2 - 1,
/// which runs over [-1, 1], with the terms kTerms. For the functions here, whose terms' moduli add up to little more
/// than the polynomial's largest value, one polynomial serves the whole range.
template <class Series, class D, class V = hn::Vec<D>>
HWY_INLINE V odd_series(D d, V x) {
  const V t = hn::MulSub(hn::Mul(x, x), hn::Set(d, 2 / (Series::kEdge * Series::kEdge)), hn::Set(d, 1));
  // At t = 1 terms of alternating sign cancel: the first, large ones are added one by one, which rounds small sums
  // only.
  constexpr std::size_t kLarge = 4;
  V sum = polynomial<kLarge>(d, t, Series::kTerms);
  for (std::size_t i = kLarge; i-- > 0;) sum = hn::MulAdd(sum, t, hn::Set(d, Series::kTerms[i]));
  const V limit = hn::CopySign(hn::Set(d, Series::kLimit), x);
  return hn::IfThenElse(hn::Ge(hn::Abs(x), hn::Set(d, Series::kEdge)), limit, hn::Mul(x, sum));
}

// erf(x) / x, interpolated at Chebyshev's nodes in 60 digits. Beyond kEdge erf rounds to 1.
template <typename T>
struct ErfSeries;
template <>
struct ErfSeries<float> {
  static constexpr float kEdge = 4, kLimit = 1;
  static constexpr float kTerms[] = {0.353530996f,    -0.176576174f,  0.131675094f,   -0.107713284f,   0.0902100852f,
                                     -0.0746883651f,  0.0598717301f,  -0.0460103312f, 0.0331549293f,   -0.0216723195f,
                                     0.0140410129f,   -0.0100730578f, 0.00541989011f, -0.00108552904f, 0.000713755594f,
                                     -0.00137052046f, 0.000572087075f};
};
template <>
struct ErfSeries<double> {
  static constexpr double kEdge = 6, kLimit = 1;
  static constexpr double kTerms[] = {
      0.235702259930433965,     -0.117851121372621192,    0.088388263696102479,     -0.0736564224132032729,
      0.0644472816107586858,    -0.0579950366494345982,   0.0531395665185180223,    -0.0492858963349358405,
      0.0460750576426491211,    -0.0432543937345695893,   0.040621980190261179,     -0.0380069125005683859,
      0.035270422818714992,     -0.032317803100213358,    0.029111085669187239,     -0.0256763367620529573,
      0.022104046499048146,     -0.018527547930082802,    0.0150753257906888678,    -0.0118725531232800166,
      0.00908821865659513835,   -0.00680299307645320289,  0.00485628868781230352,   -0.00321398601435276804,
      0.00219717527558169639,   -0.00168981875042530581,  0.0010145667728595707,    -0.000287589887482091104,
      0.000223717254846685617,  -0.000454611831025318296, 0.000213222022652800416,  0.000123187716983308713,
      -0.000042317719465579443, -0.000105415520265110537, 0.0000441402878245868021, 0.0000247831423290983891,
      -9.78825670860085168e-6,  -5.78207276954886964e-6,  2.40353272831795259e-6};
};

/// The error function 2 / sqrt(pi) times the integral of exp(-u^2) from 0 to x, to 6 ulp.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V erf(D d, V x) {
  return odd_series<ErfSeries<hn::TFromD<D>>>(d, x);
}

/// y[i] = exp(x[i] - shift); returns their sum. With shift the largest x, softmax is y / sum.
template <typename T>
HWY_INLINE T exp_sum(std::int64_t n, const T* x, T shift, T* y) {
  return sum_lanes<T>(n, [&](auto d, std::int64_t i) HWY_ATTR {
    const auto e = exp(d, hn::Sub(hn::LoadU(d, x + i), hn::Set(d, shift)));
    hn::StoreU(e, d, y + i);
    return e;
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
