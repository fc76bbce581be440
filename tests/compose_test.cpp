// Sequential and Residual: order, names, modes, and modules that change when they are called.
#include "layers/compose.h"

#include <gtest/gtest.h>

namespace dattn {
namespace {

// y = w x.
struct Weighted {
  Parameter w;
  explicit Weighted(double value) : w(Tensor::full({2, 3}, value), Role::matrix) {}
  Tensor operator()(const Tensor& x) const { return mul(x, w.value()); }
  void visit(Visitor& v) { v("w", w); }
};

// Counts its calls, and has a mode.
struct Counter {
  Tensor calls = Tensor::full({}, 0, Dtype::int64);
  bool training = true;
  Tensor operator()(const Tensor& x) {
    ++*calls.data<std::int64_t>();
    return x;
  }
  void visit(Visitor& v) {
    v("calls", calls);
    v.mode(training);
  }
};

TEST(Sequential, AppliesPartsInOrderAndNamesThemByPlace) {
  Sequential net{Weighted(3), [](const Tensor& x) { return add(x, Tensor::full(x.shape(), 1)); }, Weighted(2)};
  const Tensor y = net(Tensor::full({2, 3}, 5));
  for (std::int64_t i = 0; i < 6; ++i) EXPECT_EQ(y.at(i), (5 * 3 + 1) * 2);
  const auto named = parameters(net);
  ASSERT_EQ(named.size(), 2u);
  EXPECT_EQ(named[0].name, "0.w");
  EXPECT_EQ(named[1].name, "2.w");
  EXPECT_EQ(named[1].parameter, net.get<2>().w);
}

TEST(Sequential, NestsWithPaths) {
  Sequential net{Sequential{Weighted(1), Weighted(2)}, Residual{Weighted(3)}};
  std::vector<std::string> names;
  for (const auto& p : parameters(net)) names.push_back(p.name);
  EXPECT_EQ(names, (std::vector<std::string>{"0.0.w", "0.1.w", "1.w"}));
  const Sequential<Weighted, Weighted> constant{Weighted(2), Weighted(3)};
  EXPECT_EQ(constant(Tensor::full({2, 3}, 1)).at(0), 6);
}

TEST(Sequential, ReachesModesAndBuffers) {
  Sequential net{Counter{}, Weighted(1)};
  set_training(net, false);
  EXPECT_FALSE(net.get<0>().training);
  net(net(Tensor::zeros({2, 3})));
  ASSERT_EQ(buffers(net).size(), 1u);
  EXPECT_EQ(buffers(net)[0].name, "0.calls");
  EXPECT_EQ(net.get<0>().calls.at(0), 2);
}

TEST(Residual, AddsItsInputAndItsGradient) {
  const Residual block{Weighted(3)};
  Tensor x = Tensor::full({2, 3}, 5).track();
  const Tensor y = block(x);
  backward(y, Tensor::full(y.shape(), 1));
  for (std::int64_t i = 0; i < 6; ++i) EXPECT_EQ(y.at(i), 20);
  for (std::int64_t i = 0; i < 6; ++i) EXPECT_EQ(x.grad().at(i), 4);
}

TEST(Residual, RefusesAFunctionThatChangesTheShape) {
  const Residual block{[](const Tensor& x) { return sum(x, 0); }};
  EXPECT_THROW(block(Tensor::zeros({2, 3})), Error);
}

}  // namespace
}  // namespace dattn
