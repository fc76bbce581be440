// Kernels of the core, activations, dropout and linear layers at sizes that the table of cases does not reach: rows and
// sums of several parts, tensors that begin at odd addresses, empty ones; and random numbers that are the CPU's.
#include <gtest/gtest.h>

#include <functional>

#include "core/ops.h"
#include "cuda/enable.h"
#include "cuda/gemm.h"
#include "layers/activation.h"
#include "layers/dropout.h"
#include "layers/linear.h"
#include "op_compare.h"

namespace dattn::cuda {
namespace {

using test::distance;
using test::largest;
using test::normal;
using test::same_bits;

class Kernels : public testing::Test {
 protected:
  void SetUp() override { enable(); }
};

Tensor numbers(const Shape& shape, std::uint32_t lane = 1) { return normal(shape, lane).to(Dtype::float32); }

// Expects f(xs on the device) within `bound` times the largest value of f(xs in float64).
void expect_close(const std::vector<Tensor>& xs, const std::function<Tensor(const std::vector<Tensor>&)>& f,
                  double bound) {
  std::vector<Tensor> there, twice;
  for (const Tensor& x : xs) there.push_back(x.to(Device::cuda)), twice.push_back(x.to(Dtype::float64));
  const Tensor got = f(there).to(Device::cpu), expected = f(twice);
  EXPECT_LE(distance(got, expected), bound * largest(expected));
}

TEST_F(Kernels, SumsOfSeveralParts) {
  for (const Shape& shape :
       {Shape{2, 20'000}, Shape{1000, 70}, Shape{3, 300, 5}, Shape{3000, 7}, Shape{1, 1}, Shape{40'000}}) {
    for (int dim = 0; dim < shape.rank(); ++dim) {
      expect_close(
          {numbers(shape)}, [&](const auto& x) { return sum(x[0], dim); }, test::float_bound(shape[dim]));
    }
  }
  EXPECT_EQ(sum(Tensor::zeros({3, 0}).to(Device::cuda), 1).to(Device::cpu).at(2), 0);
}

TEST_F(Kernels, SoftmaxOfRowsOfEveryLength) {
  for (const Shape& shape : {Shape{131, 3}, Shape{9, 32}, Shape{21, 33}, Shape{7, 130}, Shape{3, 5000}}) {
    expect_close(
        {scale(numbers(shape), 3)}, [](const auto& x) { return softmax(x[0]); }, 1e-6);
    const Tensor y = softmax(numbers(shape));
    Tensor dx = Tensor::like(y), there = Tensor::like(y).to(Device::cuda);
    const Tensor dy = numbers(shape, 2);
    softmax_backward(dy, y, dx);
    softmax_backward(dy.to(Device::cuda), y.to(Device::cuda), there);
    EXPECT_LE(distance(there.to(Device::cpu), dx), 1e-5 * largest(dx)) << shape.text();
  }
}

TEST_F(Kernels, ConversionsAtOddBeginnings) {
  for (const auto& [from, to] : {std::pair{Dtype::float32, Dtype::bfloat16}, {Dtype::bfloat16, Dtype::float32}}) {
    const Tensor x = numbers({1003}).to(from), there = x.to(Device::cuda);
    for (const std::int64_t begin : {0, 1, 8}) {
      EXPECT_TRUE(same_bits(there.slice(begin, 995).to(to).to(Device::cpu), x.slice(begin, 995).to(to))) << begin;
    }
  }
}

TEST_F(Kernels, OddBeginnings) {
  for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16}) {
    const Tensor a = numbers({1003}).to(dtype), b = numbers({1003}, 2).to(dtype);
    const Tensor x = a.to(Device::cuda), z = b.to(Device::cuda);
    for (const std::int64_t begin : {0, 1, 3, 8}) {
      const Tensor y = add(x.slice(begin, 1000), z.slice(begin, 1000)).to(Device::cpu);
      for (std::int64_t i = 0; i < y.elements(); ++i) {
        const auto expected = static_cast<float>(a.at(begin + i)) + static_cast<float>(b.at(begin + i));
        ASSERT_EQ(y.at(i), dtype == Dtype::float32 ? expected : static_cast<float>(bfloat16(expected)));
      }
    }
  }
}

TEST_F(Kernels, LayoutsOfEverySizeOfElement) {
  for (const Dtype dtype : {Dtype::uint8, Dtype::bfloat16, Dtype::float32, Dtype::int64}) {
    Tensor x = Tensor::empty({2, 3, 37, 65}, dtype);
    for (std::size_t i = 0; i < x.bytes(); ++i) x.raw()[i] = static_cast<std::byte>(i * 7 % 251);
    const Tensor there = x.to(Device::cuda);
    for (const Shape& order :
         {Shape{0, 1, 3, 2}, Shape{0, 2, 3, 1}, Shape{3, 0, 2, 1}, Shape{0, 1, 2, 3}, Shape{2, 3, 0, 1}}) {
      EXPECT_TRUE(same_bits(permute(there, order).to(Device::cpu), permute(x, order))) << name(dtype) << order.text();
    }
    EXPECT_TRUE(same_bits(concat({there, there}, 2).to(Device::cpu), concat({x, x}, 2)));
    EXPECT_TRUE(same_bits(pad2d(there, 2).to(Device::cpu), pad2d(x, 2)));
  }
}

TEST_F(Kernels, TranspositionOfMoreRowsThanAGridHolds) {
  const Tensor x = numbers({65535 * 32 + 1, 2}).to(Dtype::bfloat16);
  EXPECT_TRUE(same_bits(permute(x.to(Device::cuda), {1, 0}).to(Device::cpu), permute(x, {1, 0})));
}

class Activations : public Kernels, public testing::WithParamInterface<Dtype> {};

TEST_P(Activations, AtInfinityAndNotANumber) {
  const Tensor x = Tensor::from<float>({4}, std::vector<float>{-INFINITY, INFINITY, NAN, -60}).to(GetParam());
  for (const Activation kind : {Activation::relu, Activation::gelu_erf, Activation::gelu_tanh, Activation::silu,
                                Activation::sigmoid, Activation::tanh}) {
    Tensor y = Tensor::like(x), there = Tensor::like(x).to(Device::cuda);
    activation_forward(kind, x, y);
    activation_forward(kind, x.to(Device::cuda), there);
    const Tensor ones = Tensor::full({4}, 1, x.dtype()), saved = saves_output(kind) ? y : x;
    Tensor dx = Tensor::like(x), dx_there = Tensor::like(there);
    activation_backward(kind, ones, saved, dx);
    activation_backward(kind, ones.to(Device::cuda), saved.to(Device::cuda), dx_there);
    there = there.to(Device::cpu);
    dx_there = dx_there.to(Device::cpu);
    for (const int i : {0, 1, 3}) {
      EXPECT_NEAR(dx_there.at(i), dx.at(i), 1e-6) << name(kind) << " slope " << i;
      if (std::isfinite(y.at(i))) {
        EXPECT_NEAR(there.at(i), y.at(i), 1e-6) << name(kind) << " " << i;
      } else {
        EXPECT_EQ(there.at(i), y.at(i)) << name(kind) << " " << i;
      }
    }
    EXPECT_TRUE(std::isnan(there.at(2))) << name(kind);
    EXPECT_TRUE(std::isnan(dx_there.at(2)) || kind == Activation::relu) << name(kind);
  }
}

TEST_P(Activations, GeluFromItsTailToItsTail) {
  const Dtype dtype = GetParam();
  const Tensor x = scale(numbers({4001}), 3).to(dtype), there = x.to(Device::cuda), exact = x.to(Dtype::float64);
  Tensor y = Tensor::like(there), dx = Tensor::like(there), exact_y = Tensor::like(exact),
         exact_dx = Tensor::like(exact);
  activation_forward(Activation::gelu_erf, there, y);
  activation_backward(Activation::gelu_erf, Tensor::full({4001}, 1, dtype).to(Device::cuda), there, dx);
  activation_forward(Activation::gelu_erf, exact, exact_y);
  activation_backward(Activation::gelu_erf, Tensor::full({4001}, 1, Dtype::float64), exact, exact_dx);
  y = y.to(Device::cpu), dx = dx.to(Device::cpu);
  const double rounding = dtype == Dtype::bfloat16 ? 0x1p-8 : 0x1p-23;
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    EXPECT_NEAR(y.at(i), exact_y.at(i), rounding * std::abs(exact_y.at(i)) + 5e-7) << x.at(i);
    EXPECT_NEAR(dx.at(i), exact_dx.at(i), rounding * std::abs(exact_dx.at(i)) + 5e-7) << x.at(i);
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, Activations, testing::Values(Dtype::float32, Dtype::bfloat16),
                         [](const auto& chosen) { return std::string(name(chosen.param)); });

TEST_F(Kernels, DropoutDrawsTheSameMask) {
  const DropoutMask mask(0.3, Random(0x123456789abcdef0, Purpose::dropout, 77, 5));
  const Tensor x = Tensor::full({1001}, 1);
  for (const std::int64_t run : {1, 7}) {
    EXPECT_TRUE(same_bits(dropout(x.to(Device::cuda), mask, run).to(Device::cpu), dropout(x, mask, run)));
  }
}

TEST_F(Kernels, DropoutFindsItsStepOnTheDevice) {
  const Tensor x = numbers({2, 1001}), there = x.to(Device::cuda);
  Tensor step = Tensor::empty({}, Dtype::int64, Device::cuda);
  const auto random = [](std::uint64_t at) { return Random(0x123456789abcdef0, Purpose::dropout, at, 0xffffff); };
  const DropoutMask mask(0.3, random(5), step.data<std::int64_t>());
  for (const std::int64_t at : {0l, 5l, 0x12345678l, 0xffffffffl}) {
    step.copy_from(Tensor::scalar(at));
    const DropoutMask expected(0.3, random(static_cast<std::uint64_t>(at)));
    for (const std::int64_t run : {1, 7})
      EXPECT_TRUE(same_bits(dropout(there, mask, run).to(Device::cpu), dropout(x, expected, run))) << at;
  }
}

TEST_F(Kernels, BiasGradientsOfManyRowsAndColumnsAdd) {
  const Tensor dy = numbers({5000, 70});
  Tensor here = Tensor::full({70}, 3), there = here.to(Device::cuda);
  bias_backward(dy, here);
  bias_backward(dy.to(Device::cuda), there);
  EXPECT_LE(distance(there.to(Device::cpu), here), test::float_bound(5000) * largest(here));
}

TEST_F(Kernels, ProductsWithBiasAlphaBetaAndGaps) {
  // C [5,7] within rows of 9 = 2 A [5,3]^T stored as [3,5] x B [3,7] + D + bias, D being C or apart
  const Tensor a = numbers({3, 5}), b = numbers({3, 7}, 2), c = numbers({5, 9}, 3), bias = numbers({7}, 4);
  for (const auto& [out, multiply] : {std::pair{Dtype::float32, &gemm}, std::pair{Dtype::bfloat16, &gemm},
                                      std::pair{Dtype::bfloat16, &detail::multiply_in_float32}}) {
    for (const bool apart : {false, true}) {
      const Tensor before = c.to(out), shift = bias.to(out), old = apart ? numbers({5, 9}, 5).to(out) : before;
      const Tensor d = before.to(Device::cuda), there = apart ? old.to(Device::cuda) : d;
      multiply({.ta = Trans::yes,
                .m = 5,
                .n = 7,
                .k = 3,
                .lda = 5,
                .ldb = 7,
                .ldc = 9,
                .in = out,
                .out = out,
                .has_bias = true},
               2, a.to(out).to(Device::cuda).raw(), b.to(out).to(Device::cuda).raw(), 1, there.raw(),
               shift.to(Device::cuda).raw(), d.raw());
      const Tensor got = there.to(Device::cpu), left = a.to(out), right = b.to(out);
      const double bound = out == Dtype::float32 ? 1e-6 : 0x1p-8;
      for (std::int64_t i = 0; i < 5; ++i) {
        for (std::int64_t j = 0; j < 9; ++j) {
          double expected = j < 7 ? before.at(9 * i + j) + shift.at(j) : old.at(9 * i + j);
          for (std::int64_t k = 0; k < 3 && j < 7; ++k) expected += 2 * left.at(5 * k + i) * right.at(7 * k + j);
          EXPECT_NEAR(got.at(9 * i + j), expected, bound * 8) << i << " " << j << " D apart " << apart;
        }
      }
    }
  }
}

TEST_F(Kernels, EmptyTensors) {
  const Tensor none = Tensor::zeros({0, 5}).to(Device::cuda);
  EXPECT_EQ(add(none, none).elements(), 0);
  EXPECT_EQ(softmax(none).elements(), 0);
  EXPECT_EQ(permute(none, {1, 0}).elements(), 0);
  const Tensor product = matmul(Tensor::zeros({3, 0}).to(Device::cuda), none);
  EXPECT_EQ(largest(product.to(Device::cpu)), 0);
}

}  // namespace
}  // namespace dattn::cuda
