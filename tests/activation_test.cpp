// Activations: values against the standard library, edges, and errors. Gradients are in op_cases_activation.cpp.
#include "layers/activation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "error_text.h"

namespace dattn {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double logistic(double x) { return 1 / (1 + std::exp(-x)); }

// dy/dx at x by the operation's own backward pass.
Tensor slope(Tensor (*activation)(const Tensor&), const Tensor& at) {
  Tensor x = at.detach().track();
  const Tensor y = activation(x);
  backward(y, Tensor::full(y.shape(), 1, y.dtype()));
  return x.grad();
}

Tensor gelu_erf(const Tensor& x) { return gelu(x); }
Tensor gelu_tanh(const Tensor& x) { return gelu(x, GeluKind::tanh); }

Tensor dense(double edge, int points, Dtype dtype) {
  Tensor x = Tensor::empty({points}, Dtype::float64);
  for (int i = 0; i < points; ++i) x.data<double>()[i] = edge * (2.0 * i / (points - 1) - 1);
  return x.to(dtype);
}

TEST(Activation, GeluInDoubleIsExact) {
  const Tensor x = dense(9, 20001, Dtype::float64), y = gelu(x), dx = slope(gelu_erf, x);
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    const double v = x.at(i);
    ASSERT_NEAR(y.at(i), v * normal_cdf(v), 6e-15) << v;
    ASSERT_NEAR(dx.at(i), normal_cdf(v) + v * std::exp(-v * v / 2) / std::sqrt(2 * M_PI), 4e-15) << v;
  }
}

TEST(Activation, GeluInFloatIsCloseToDouble) {
  const Tensor x = dense(9, 100001, Dtype::float32), exact = x.to(Dtype::float64);
  struct Case {
    Tensor (*gelu)(const Tensor&);
    double value_bound, slope_bound;  // near -5.6, x / 2 times some ulp of erf
  };
  for (const Case& c : {Case{gelu_erf, 6e-7, 6e-7}, Case{gelu_tanh, 6e-7, 2e-6}}) {
    const Tensor y = c.gelu(x), dx = slope(c.gelu, x), right = c.gelu(exact), right_dx = slope(c.gelu, exact);
    for (std::int64_t i = 0; i < x.elements(); ++i) {
      const double scale = std::max(1.0, std::abs(right.at(i)));  // a float of size 9 has an ulp of 1e-6
      ASSERT_NEAR(y.at(i), right.at(i), c.value_bound * scale) << x.at(i);
      ASSERT_NEAR(dx.at(i), right_dx.at(i), c.slope_bound) << x.at(i);
    }
  }
}

TEST(Activation, ValuesAreThoseOfTheFormulas) {
  const Tensor x = dense(30, 1001, Dtype::float64);
  const Tensor r = relu(x), t = gelu_tanh(x), s = silu(x), l = sigmoid(x), h = tanh_(x);
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    const double v = x.at(i), u = std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v);
    EXPECT_EQ(r.at(i), v > 0 ? v : 0);
    EXPECT_NEAR(t.at(i), v / 2 * (1 + std::tanh(u)), 1e-14);
    EXPECT_NEAR(s.at(i), v * logistic(v), 1e-14);
    EXPECT_NEAR(l.at(i), logistic(v), 1e-15);
    EXPECT_NEAR(h.at(i), std::tanh(v), 1e-15);
  }
}

TEST(Activation, InfinitiesGiveTheLimitAndNanStays) {
  struct Case {
    const char* name;
    Tensor (*function)(const Tensor&);
    double below, above, slope_above;  // at -infinity and +infinity; every slope is 0 below
  };
  for (const Case& c : {Case{"relu", relu, 0, kInfinity, 1}, Case{"gelu", gelu_erf, 0, kInfinity, 1},
                        Case{"gelu_tanh", gelu_tanh, 0, kInfinity, 1}, Case{"silu", silu, 0, kInfinity, 1},
                        Case{"sigmoid", sigmoid, 0, 1, 0}, Case{"tanh", tanh_, -1, 1, 0}}) {
    for (Dtype dtype : {Dtype::float32, Dtype::float64}) {
      SCOPED_TRACE(std::string(c.name) + " " + name(dtype));
      // The last three repeat the first three, so that both a full vector and a rest see them.
      const Tensor x =
          Tensor::from<double>({11}, {-kInfinity, kInfinity, kNan, -1e30, 1e30, 1, 2, 3, -kInfinity, kInfinity, kNan});
      const Tensor y = c.function(x.to(dtype)), dx = slope(c.function, x.to(dtype));
      for (int first : {0, 8}) {
        EXPECT_EQ(y.at(first), c.below);
        EXPECT_EQ(y.at(first + 1), c.above);
        EXPECT_TRUE(std::isnan(y.at(first + 2)));
        EXPECT_EQ(dx.at(first), 0);
        EXPECT_EQ(dx.at(first + 1), c.slope_above);
      }
      EXPECT_EQ(y.at(3), c.below);
      EXPECT_FLOAT_EQ(static_cast<float>(y.at(4)), static_cast<float>(std::min(c.above, 1e30)));
      EXPECT_EQ(dx.at(3), 0);
      EXPECT_EQ(dx.at(4), c.slope_above);
    }
  }
}

TEST(Softmax, RowsOfLargeNumbersStayFinite) {
  const Tensor x = Tensor::from<double>({2, 3}, {1e308, 1e308, -1e308, -5000, -5001, -kInfinity});
  const Tensor y = softmax(x);
  EXPECT_EQ(y.at(0), 0.5);
  EXPECT_EQ(y.at(1), 0.5);
  EXPECT_EQ(y.at(2), 0);
  EXPECT_NEAR(y.at(3), 1 / (1 + std::exp(-1.0)), 1e-15);
  EXPECT_NEAR(y.at(4), 1 / (1 + std::exp(1.0)), 1e-15);
  EXPECT_EQ(y.at(5), 0);
  EXPECT_TRUE(std::isnan(softmax(Tensor::from<float>({3}, {1, static_cast<float>(kNan), 2})).at(0)));
}

TEST(Activation, Errors) {
  EXPECT_EQ(test::error_text([] { softmax(Tensor::scalar(1.0f)); }),
            "softmax: expected a tensor with a last dimension, got x [] float32");
  EXPECT_EQ(test::error_text([] { gelu(Tensor::zeros({2}, Dtype::int64)); }),
            "gelu: expected float32 or float64, got int64");
}

}  // namespace
}  // namespace dattn
