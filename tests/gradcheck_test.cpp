// The checker's own test: a gradient that is wrong by 0.01 % in one element is found and named.
#include "gradcheck.h"

#include <gtest/gtest.h>

#include "core/autograd.h"

namespace dattn::test {
namespace {

// y = x^2, whose gradient is multiplied by `error` in one element.
struct SquareNode : Node {
  Tensor x;
  double error = 1;
  const char* name() const override { return "square"; }
  void backward(const Tensor& dy) override {
    Tensor dx = Tensor::like(x);
    for (std::int64_t i = 0; i < x.elements(); ++i)
      dx.data<double>()[i] = 2 * x.data<double>()[i] * dy.data<double>()[i];
    dx.data<double>()[4] *= error;
    give(0, dx);
  }
};

OpCase square(double error) {
  return {"square", [error] {
            return OpInstance{{{"x", normal({2, 3}, 1)}},
                              {},
                              [error](std::span<const Tensor> in) {
                                Tensor y = in[0].clone().detach();
                                for (std::int64_t i = 0; i < y.elements(); ++i)
                                  y.data<double>()[i] *= y.data<double>()[i];
                                return record<SquareNode>(y, {in[0]}, {}, [&](SquareNode& node) {
                                  node.x = in[0];
                                  node.error = error;
                                });
                              },
                              {}};
          }};
}

TEST(GradChecker, AcceptsTheRightGradient) { EXPECT_EQ(gradcheck(square(1)), std::nullopt); }

TEST(GradChecker, FindsOneWrongElement) {
  const auto failure = gradcheck(square(1.0001));
  ASSERT_TRUE(failure);
  EXPECT_NE(failure->find("square: d(x)[1,1] analytic"), std::string::npos) << *failure;
}

}  // namespace
}  // namespace dattn::test
