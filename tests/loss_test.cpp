// Cross entropy: values by its definition, large logits, and errors. Gradients are in op_cases_activation.cpp.
#include "layers/loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "error_text.h"
#include "op_cases.h"

namespace dattn {
namespace {

Tensor classes(std::initializer_list<std::int64_t> labels) {
  return Tensor::from<std::int64_t>({static_cast<std::int64_t>(labels.size())}, std::vector<std::int64_t>(labels));
}

// The definition, term by term; `t` are distributions.
double by_definition(const Tensor& logits, const Tensor& t, double smoothing) {
  const std::int64_t rows = logits.size(0), columns = logits.size(1);
  double loss = 0;
  for (std::int64_t n = 0; n < rows; ++n) {
    double sum = 0;
    for (std::int64_t c = 0; c < columns; ++c) sum += std::exp(logits.at(n * columns + c));
    for (std::int64_t c = 0; c < columns; ++c) {
      const double q = (1 - smoothing) * t.at(n * columns + c) + smoothing / static_cast<double>(columns);
      loss += q * (std::log(sum) - logits.at(n * columns + c));
    }
  }
  return loss;
}

TEST(CrossEntropy, FollowsItsDefinition) {
  const Tensor logits = test::normal({4, 7}, 1, 2), soft = test::normal({4, 7}, 2, 0.1, 0.2);
  const Tensor labels = classes({6, 0, 3, 3});
  Tensor one_hot = Tensor::zeros({4, 7}, Dtype::float64);
  for (int n = 0; n < 4; ++n) one_hot.data<double>()[7 * n + labels.data<std::int64_t>()[n]] = 1;
  for (const double smoothing : {0.0, 0.2, 1.0}) {
    const double hard = by_definition(logits, one_hot, smoothing);
    EXPECT_NEAR(cross_entropy(logits, labels, smoothing).item(), hard / 4, 1e-14);
    EXPECT_NEAR(cross_entropy(logits, labels, smoothing, Reduction::sum).item(), hard, 1e-13);
    EXPECT_NEAR(cross_entropy(logits, one_hot, smoothing, Reduction::sum).item(), hard, 1e-13);
    EXPECT_NEAR(cross_entropy(logits, soft, smoothing).item(), by_definition(logits, soft, smoothing) / 4, 1e-14);
  }
}

TEST(CrossEntropy, LargeLogitsLoseNothing) {
  const Tensor logits = Tensor::from<float>({2, 3}, {1e6f, 1e6f + 1, -1e38f, -3e38f, 3e38f, 0});
  EXPECT_NEAR(cross_entropy(logits, classes({0, 1}), 0, Reduction::sum).item(), 1 + std::log1p(std::exp(-1.0)), 1e-6);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const Tensor masked = Tensor::from<float>({1, 3}, {1, 1, -kInfinity});
  EXPECT_FLOAT_EQ(static_cast<float>(cross_entropy(masked, classes({0})).item()), std::log(2.0f));
  EXPECT_EQ(cross_entropy(masked, classes({2})).item(), kInfinity);
  const Tensor broken = Tensor::from<float>({1, 2}, {1, std::numeric_limits<float>::quiet_NaN()});
  EXPECT_TRUE(std::isnan(cross_entropy(broken, classes({0})).item()));
}

TEST(CrossEntropy, Errors) {
  const auto error = [](const Tensor& logits, const Tensor& targets, double smoothing = 0) {
    return test::error_text([&] { cross_entropy(logits, targets, smoothing); });
  };
  const Tensor logits = Tensor::zeros({2, 10});
  EXPECT_EQ(error(logits, classes({3, 10})),
            "cross_entropy: targets[1] is 10, expected a class in 0 .. 9 (logits [2,10])");
  EXPECT_EQ(error(logits, classes({-100, 3})),
            "cross_entropy: targets[0] is -100, expected a class in 0 .. 9 (logits [2,10])");
  EXPECT_EQ(error(logits, classes({1, 2, 3})),
            "cross_entropy: expected one class a row, int64 [2] (logits [2,10] float32, targets [3] int64)");
  EXPECT_EQ(
      error(logits, Tensor::zeros({2, 9})),
      "cross_entropy: expected classes int64 [2] or distributions float32 [2,10] as targets (logits [2,10] float32, "
      "targets [2,9] float32)");
  EXPECT_EQ(error(logits, Tensor::zeros({2, 10}).track()),
            "cross_entropy: targets get no gradient, yet these are tracked (targets [2,10] float32)\nhint: pass "
            "targets.detach()");
  EXPECT_EQ(error(Tensor::zeros({0, 10}), classes({})),
            "cross_entropy: expected logits [N, classes], got logits [0,10] float32");
  EXPECT_EQ(error(Tensor::zeros({10}), classes({1})),
            "cross_entropy: expected logits [N, classes], got logits [10] float32");
  EXPECT_EQ(error(logits, classes({1, 2}), 1.5), "cross_entropy: expected a label smoothing between 0 and 1, got 1.5");
}

}  // namespace
}  // namespace dattn
