// Elementary functions of core/simd, and the layers' fast_exp, against the standard library in long double, on every
// instruction set of this processor.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/simd_test.cpp"
#include "hwy/foreach_target.h"
//
#include "core/simd.h"
#include "layers/fast_exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

template <typename T>
void Evaluate(char function, std::int64_t n, const T* x, T* y) {
  for_lanes<T>(n, [&](auto d, std::int64_t i) HWY_ATTR {
    const auto v = hn::LoadU(d, x + i);
    hn::StoreU(function == 'e'   ? erf(d, v)
               : function == 'x' ? exp(d, v)
               : function == 'f' ? fast_exp(d, v)
                                 : tanh(d, v),
               d, y + i);
  });
}
void EvaluateFloat(char function, std::int64_t n, const float* x, float* y) { Evaluate(function, n, x, y); }
void EvaluateDouble(char function, std::int64_t n, const double* x, double* y) { Evaluate(function, n, x, y); }

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "instruction_sets.h"

namespace dattn {
namespace {

HWY_EXPORT(EvaluateFloat);
HWY_EXPORT(EvaluateDouble);

template <typename T>
std::vector<T> evaluate(char function, const std::vector<T>& x) {
  std::vector<T> y(x.size());
  const auto n = static_cast<std::int64_t>(x.size());
  if constexpr (sizeof(T) == 4)
    HWY_DYNAMIC_DISPATCH(EvaluateFloat)(function, n, x.data(), y.data());
  else
    HWY_DYNAMIC_DISPATCH(EvaluateDouble)(function, n, x.data(), y.data());
  return y;
}

// Evenly spaced numbers over [-edge, edge], and both signs of numbers down to 1e-30.
template <typename T>
std::vector<T> dense(double edge) {
  constexpr int kPoints = 40001;
  std::vector<T> x;
  for (int i = 0; i < kPoints; ++i) x.push_back(static_cast<T>(edge * (2.0 * i / (kPoints - 1) - 1)));
  for (double small = 1; small > 1e-30; small *= 0.7) {
    x.push_back(static_cast<T>(small));
    x.push_back(static_cast<T>(-small));
  }
  return x;
}

// The largest error in units in the last place of the right result, or of what is allowed: 1 + slope |x| of them.
template <typename T>
double worst_ulp(char function, double edge, long double (*reference)(long double), double slope = 0) {
  const std::vector<T> x = dense<T>(edge), y = evaluate(function, x);
  long double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const long double right = reference(x[i]);
    const T magnitude = std::abs(static_cast<T>(right));
    const long double ulp = std::nextafter(magnitude, std::numeric_limits<T>::infinity()) - magnitude;
    worst = std::max(worst, std::abs(y[i] - right) / ulp / (1 + slope * std::abs(x[i])));
  }
  return static_cast<double>(worst);
}

template <typename T>
class Simd : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(Simd, Types);

TYPED_TEST(Simd, ErfIsAccurate) {
  test::on_every_instruction_set([] { EXPECT_LE((worst_ulp<TypeParam>('e', 7, std::erf)), 6); });
}

TYPED_TEST(Simd, ExpIsAccurate) {
  test::on_every_instruction_set(
      [] { EXPECT_LE((worst_ulp<TypeParam>('x', sizeof(TypeParam) == 4 ? 87 : 708, std::exp)), 1.5); });
}

TYPED_TEST(Simd, FastExpIsAccurateWhereItIsPromised) {
  using T = TypeParam;
  test::on_every_instruction_set([] {
    EXPECT_LE((worst_ulp<T>('f', 86, std::exp, 1)), 2);
    for (const T y : evaluate<T>('f', {-87, -1000, T(-1e20), -std::numeric_limits<T>::infinity()})) {
      EXPECT_GE(y, 0);
      EXPECT_LE(y, 4.6e-38);
    }
    EXPECT_TRUE(std::isnan(evaluate<T>('f', {std::numeric_limits<T>::quiet_NaN()})[0]));
  });
}

TYPED_TEST(Simd, TanhIsAccurate) {
  test::on_every_instruction_set([] { EXPECT_LE((worst_ulp<TypeParam>('t', 25, std::tanh)), 4); });
}

TYPED_TEST(Simd, EdgesAreThoseOfTheStandardLibrary) {
  using T = TypeParam;
  constexpr T kInfinity = std::numeric_limits<T>::infinity(), kMax = std::numeric_limits<T>::max();
  const std::vector<T> x = {0, T(-0.0), kInfinity, -kInfinity, kMax, -kMax, 1000, -1000, T(1e20), T(-1e20)};
  test::on_every_instruction_set([&] {
    const auto erf = evaluate('e', x), exp = evaluate('x', x), tanh = evaluate('t', x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(erf[i], std::erf(x[i])) << x[i];
      EXPECT_EQ(exp[i], std::exp(x[i])) << x[i];
      EXPECT_EQ(tanh[i], std::tanh(x[i])) << x[i];
    }
    for (char function : {'e', 'x', 't'}) {
      EXPECT_TRUE(std::isnan(evaluate<T>(function, {std::numeric_limits<T>::quiet_NaN()})[0])) << function;
    }
  });
}

}  // namespace
}  // namespace dattn
#endif
