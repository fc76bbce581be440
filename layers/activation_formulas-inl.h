// Activations of vectors: value(d, x), and slope(d, saved) = dy/dx from x or y, whichever saves_output() names.
// Included by kernel files as core/simd.h is.
#if defined(DATTN_LAYERS_ACTIVATION_FORMULAS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DATTN_LAYERS_ACTIVATION_FORMULAS_INL_H_
#undef DATTN_LAYERS_ACTIVATION_FORMULAS_INL_H_
#else
#define DATTN_LAYERS_ACTIVATION_FORMULAS_INL_H_
#endif

#include <limits>
#include <numbers>

#include "core/simd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// A factor that tends to 0 meets a finite x, so that their product is 0 at infinity. NaN comes back through the other
// factor.
template <class D, class V>
HWY_INLINE V FiniteBelow(D d, V x) {
  return hn::Max(x, hn::Set(d, std::numeric_limits<hn::TFromD<D>>::lowest()));
}
// Slopes are 0 or 1 from here on, in float and in double.
template <class D, class V>
HWY_INLINE V WhereSloped(D d, V x) {
  return hn::Min(hn::Max(x, hn::Set(d, -1000)), hn::Set(d, 1000));
}

template <class D, class V>
HWY_INLINE V Sigmoid(D d, V x) {
  const V one = hn::Set(d, 1);
  return hn::Div(one, hn::Add(one, exp(d, hn::Neg(x))));
}

struct ReluFormula {
  template <class D, class V>
  static HWY_INLINE V value(D d, V x) {
    return at_least(d, x, hn::Zero(d));
  }
  template <class D, class V>
  static HWY_INLINE V slope(D d, V y) {
    return hn::IfThenElseZero(hn::Gt(y, hn::Zero(d)), hn::Set(d, 1));
  }
};

// The slope of gelu less 1/2 is odd: (P(x) - 1/2) / x + exp(-x^2 / 2) / sqrt(2 pi), interpolated as core/simd does
// erf(x) / x. It costs half of erf and exp. Beyond kEdge the slope is 0 or 1 to rounding.
template <typename T>
struct GeluSlopeSeries;
template <>
struct GeluSlopeSeries<float> {
  static constexpr float kEdge = 6, kLimit = 0.5;
  static constexpr float kTerms[] = {0.11789776f,    -0.0593428486f,  0.0460579542f,   -0.0423634339f, 0.0445481132f,
                                     -0.0509689268f, 0.0587816452f,   -0.0640862694f,  0.066358634f,   -0.066572065f,
                                     0.0560818852f,  -0.0346635457f,  0.0283308746f,   -0.034907696f,  0.0193625271f,
                                     0.00281742423f, -4.60240386e-5f, -0.00718824318f, 0.00323557769f};
};
template <>
struct GeluSlopeSeries<double> {
  static constexpr double kEdge = 9, kLimit = 0.5;
  static constexpr double kTerms[] = {
      0.0785674207567843394,    -0.0392837227059641219,    0.0294629103621550686,   -0.0245531802804740539,
      0.0214876332553686437,    -0.0193525546411769436,    0.0177829990570563903,   -0.01662887132529867,
      0.0158612343804645837,    -0.0155414126402612582,    0.0158000371514771366,   -0.0168023961100068713,
      0.0186919712503105618,    -0.021518737947407221,     0.0251700213195103913,   -0.0293372456079103562,
      0.0335593454292298124,    -0.0372883216119334832,    0.0398764061217097076,   -0.0408090576431459371,
      0.04031466832799588,      -0.0387203985441029563,    0.034813097806452144,    -0.0285217944756210218,
      0.0244694820157151129,    -0.0235358878952965832,    0.0170316961484630792,   -0.00592401142121976554,
      0.00596919909750728256,   -0.0135355581185874795,    0.00717784151197320512,  0.00552924020421615466,
      -0.00180607790153352469,  -0.00750123360711882765,   0.00334529706812135349,  0.00358073725846518811,
      -0.00147254996972591067,  -0.00178482528083229182,   0.000770337025868901936, 0.000441387882859894392,
      -0.000186319561843944092, -0.0000766581128382907873, 0.0000334075261502395736};
};

struct GeluErfFormula {
  template <class D, class V>
  static HWY_INLINE V value(D d, V x) {
    using T = hn::TFromD<D>;
    const V half = hn::Set(d, T(0.5));
    const V normal_cdf = hn::MulAdd(half, erf(d, hn::Mul(x, hn::Set(d, std::numbers::sqrt2_v<T> / 2))), half);
    return hn::Mul(FiniteBelow(d, x), normal_cdf);
  }
  template <class D, class V>
  static HWY_INLINE V slope(D d, V x) {
    using T = hn::TFromD<D>;
    return hn::Add(hn::Set(d, T(0.5)), odd_series<GeluSlopeSeries<T>>(d, x));
  }
};

struct GeluTanhFormula {
  static constexpr double kScale = 2 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi, kCubic = 0.044715;

  // 2u = kScale (x + kCubic x^3)
  template <class D, class V>
  static HWY_INLINE V twice_u(D d, V x) {
    using T = hn::TFromD<D>;
    const V curve = hn::MulAdd(hn::Mul(x, x), hn::Set(d, T(kScale * kCubic)), hn::Set(d, T(kScale)));
    return hn::Mul(x, curve);
  }
  template <class D, class V>
  static HWY_INLINE V value(D d, V x) {
    return hn::Mul(FiniteBelow(d, x), Sigmoid(d, twice_u(d, x)));
  }
  template <class D, class V>
  static HWY_INLINE V slope(D d, V x) {
    using T = hn::TFromD<D>;
    const V z = WhereSloped(d, x), s = Sigmoid(d, twice_u(d, x));
    const V twice_du = hn::MulAdd(hn::Mul(z, z), hn::Set(d, T(3 * kScale * kCubic)), hn::Set(d, T(kScale)));
    return hn::MulAdd(hn::Mul(z, twice_du), hn::NegMulAdd(s, s, s), s);
  }
};

struct SiluFormula {
  template <class D, class V>
  static HWY_INLINE V value(D d, V x) {
    return hn::Mul(FiniteBelow(d, x), Sigmoid(d, x));
  }
  template <class D, class V>
  static HWY_INLINE V slope(D d, V x) {
    const V s = Sigmoid(d, x);
    return hn::MulAdd(WhereSloped(d, x), hn::NegMulAdd(s, s, s), s);
  }
};

struct SigmoidFormula {
  template <class D, class V>
  static HWY_INLINE V value(D d, V x) {
    return Sigmoid(d, x);
  }
  template <class D, class V>
  static HWY_INLINE V slope(D, V y) {
    return hn::NegMulAdd(y, y, y);
  }
};

struct TanhFormula {
  template <class D, class V>
  static HWY_INLINE V value(D d, V x) {
    return tanh(d, x);
  }
  template <class D, class V>
  static HWY_INLINE V slope(D d, V y) {
    return hn::NegMulAdd(y, y, hn::Set(d, 1));
  }
};

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
