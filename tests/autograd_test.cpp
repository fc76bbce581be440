// The engine: fan-in, leaves, release of saved tensors, and its errors.
#include "core/autograd.h"

#include <gtest/gtest.h>

#include "core/ops.h"

namespace dattn {
namespace {

Tensor numbers(const Shape& shape) {
  Tensor x = Tensor::empty(shape, Dtype::float64);
  for (std::int64_t i = 0; i < x.elements(); ++i) x.data<double>()[i] = 0.5 * static_cast<double>(i) - 1;
  return x;
}

TEST(Autograd, FanInIsSummed) {
  Tensor x = numbers({3, 5}).track();
  const Tensor y = add(add(x, x), x);
  backward(y, Tensor::full(y.shape(), 2, Dtype::float64));
  for (std::int64_t i = 0; i < x.elements(); ++i) EXPECT_EQ(x.grad().at(i), 6.0);
}

TEST(Autograd, AGraphRunsOnce) {
  Tensor x = numbers({1}).track();
  const Tensor y = add(x, x);
  backward(y);
  EXPECT_THROW(backward(y), Error);
}

TEST(Autograd, NoGradRecordsNothing) {
  Tensor x = numbers({2}).track();
  NoGrad no_grad;
  EXPECT_FALSE(add(x, x).needs_grad());
}

TEST(Autograd, ALongChainNeedsNoRecursion) {
  Tensor x = numbers({1}).track();
  Tensor y = x;
  for (int i = 0; i < 100000; ++i) y = add(y, x.detach());
  backward(y);
  EXPECT_EQ(x.grad().at(0), 1.0);
  for (int i = 0; i < 100000; ++i) y = add(i ? y : x, x.detach());
  y = {};  // a graph that never runs is freed too
}

}  // namespace
}  // namespace dattn
