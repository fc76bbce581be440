// Maps that are recomputed for backward: bit for bit what keeping them gives, in less memory.
#include "core/saved.h"

#include <gtest/gtest.h>

#include <limits>

#include "core/flat_parameters.h"
#include "core/ops.h"
#include "core/random.h"
#include "error_text.h"
#include "layers/activation.h"
#include "layers/batchnorm_gelu.h"
#include "layers/conv2d.h"
#include "layers/layernorm.h"
#include "layers/loss.h"
#include "op_compare.h"
#include "train/models.h"

namespace dattn {
namespace {

using test::error_text;

constexpr std::size_t kKeepAll = std::numeric_limits<std::size_t>::max();

Tensor numbers(const Shape& shape) {
  Tensor x = Tensor::empty(shape);
  const Random random(7, Purpose::test);
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    x.data<float>()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  return x;
}

// --- networks ---

struct StepResult {
  Tensor loss;
  std::vector<NamedTensor> tensors;  ///< gradients of parameters, then buffers
  std::size_t peak = 0;              ///< bytes of tensors above those before the step
};

StepResult step(const char* attention, Dtype precision, bool training, std::size_t kept_up_to, std::int64_t images) {
  const RecomputeAbove limit(kept_up_to);
  Random random(3, Purpose::init);
  const auto model = make_model({"dattn_cnn", attention, 10}, random);
  set_training(*model, training);
  // The output projections start at zero, which would hide most gradients.
  for (const auto& [name, parameter] : parameters(*model)) {
    if (parameter.shape().rank() == 4) add_forward(parameter.value(), numbers(parameter.shape()), parameter.value());
  }
  const Tensor x = numbers({images, 32, 32, 3}).to(precision);
  Tensor labels = Tensor::empty({images}, Dtype::int64);
  for (std::int64_t i = 0; i < images; ++i) labels.data<std::int64_t>()[i] = i % 10;
  pool::reset_peak();
  const std::size_t before = pool::statistics().in_use;
  StepResult result;
  result.loss = cross_entropy(model->forward(x), labels, 0.2, Reduction::sum);
  backward(result.loss);
  result.peak = pool::statistics().peak_in_use - before;
  for (const auto& [name, parameter] : parameters(*model)) {
    if (parameter.trainable()) result.tensors.push_back({name, parameter.grad()});
  }
  for (const auto& buffer : buffers(*model)) result.tensors.push_back(buffer);
  return result;
}

void expect_same(const StepResult& a, const StepResult& b) {
  EXPECT_TRUE(test::same_bits(a.loss, b.loss));
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (std::size_t i = 0; i < a.tensors.size(); ++i) {
    EXPECT_TRUE(test::same_bits(a.tensors[i].tensor, b.tensors[i].tensor)) << a.tensors[i].name;
  }
}

TEST(Saved, ANetworkGivesTheSameBits) {
  for (const char* attention : {"dattention", "self", "none"}) {
    for (const Dtype precision : {Dtype::float32, Dtype::bfloat16}) {
      for (const bool training : {true, false}) {
        SCOPED_TRACE(fmt::format("{} {} {}", attention, name(precision), training));
        expect_same(step(attention, precision, training, 0, 3), step(attention, precision, training, kKeepAll, 3));
      }
    }
  }
}

// When the second attention block runs backward, the memory is at its peak. Of what comes before, two maps of the whole
// image and eight of the first group and its attention are then not there: the outputs of both GELUs with BatchNorm and
// of BatchNorm; the depthwise convolution, LayerNorm and GELU of the offset network; samples; and the mix with its
// encoding.
TEST(Saved, ANetworkNeedsTenMapsLess) {
  constexpr std::int64_t kImages = 40, kWhole = kImages * 31 * 31 * 24 * 4, kFirst = kImages * 15 * 15 * 64 * 4;
  const std::size_t kept = step("dattention", Dtype::float32, true, kKeepAll, kImages).peak,
                    again = step("dattention", Dtype::float32, true, 0, kImages).peak;
  EXPECT_GT(static_cast<std::int64_t>(kept - again), 2 * kWhole + 8 * kFirst);
}

// --- one map ---

TEST(Saved, AMapIsMadeAgainOnceForAllWhoAsk) {
  const RecomputeAbove limit(0);
  Tensor x = numbers({4, 5}).track();
  const Tensor y = gelu(x);
  const Saved first(y), second(y);
  EXPECT_EQ(first.recompute_sweeps(), 1);
  const Tensor again = first.get();
  EXPECT_NE(again.raw(), y.raw());
  EXPECT_EQ(second.get().raw(), again.raw());
  EXPECT_TRUE(test::same_bits(again, y));
  EXPECT_FALSE(again.needs_grad());
}

TEST(Saved, WhatIsSmallOrCannotBeMadeIsKept) {
  Tensor x = numbers({4, 5}).track();
  const auto kept = [](const Tensor& y) {
    const Saved saved(y);
    return saved.recompute_sweeps() == 0 && saved.get().raw() == y.raw();
  };
  EXPECT_TRUE(kept(gelu(x)));
  const RecomputeAbove limit(0);
  EXPECT_TRUE(kept(x));
  EXPECT_TRUE(kept(gelu(x.detach())));
  EXPECT_TRUE(kept(relu(x)));  // its node keeps the output itself
  EXPECT_TRUE(kept(add(x, x)));
  EXPECT_TRUE(kept(reshape(add(x, x), {20})));
  EXPECT_FALSE(kept(reshape(gelu(x), {20})));
  EXPECT_EQ(Saved(gelu(gelu(gelu(x)))).recompute_sweeps(), 3);
}

TEST(Saved, LongChainsKeepEveryFifthMap) {
  const RecomputeAbove limit(0);
  Tensor x = numbers({3}).track();
  Tensor y = x;
  for (int i = 0; i < 100000; ++i) {
    y = gelu(y);
    ASSERT_LE(Saved(y).recompute_sweeps(), 4);
  }
  backward(y, Tensor::full({3}, 1));
  EXPECT_TRUE(x.grad().defined());
}

TEST(Saved, AConvolutionOfFewProductsIsMadeAgain) {
  const RecomputeAbove limit(0);
  Random random(1, Purpose::init);
  Tensor x = numbers({2, 6, 6, 8}).track();
  const Conv2d depthwise(8, 8, 3, {.padding = 1, .groups = 8}, true, random),
      plain(8, 8, 3, {.padding = 1}, true, random);
  EXPECT_EQ(Saved(depthwise(x)).recompute_sweeps(), 1);
  EXPECT_EQ(Saved(plain(x)).recompute_sweeps(), 0);
  const Tensor y = depthwise_conv2d_add(gelu(x), x, depthwise.weight, depthwise.bias, depthwise.options);
  EXPECT_EQ(Saved(y).recompute_sweeps(), 2);
  EXPECT_TRUE(test::same_bits(Saved(y).get(), y));
  // An addend that would have to be kept is more than the sum.
  EXPECT_EQ(
      Saved(depthwise_conv2d_add(plain(x), x, depthwise.weight, depthwise.bias, depthwise.options)).recompute_sweeps(),
      0);
  // With frozen filters a map is recomputed from a small input alone.
  const Tensor image = numbers({2, 6, 6, 1});
  const Parameter frozen(numbers({8, 2, 2, 1}), Role::frozen), narrow(numbers({3, 2, 2, 1}), Role::frozen),
      bias(numbers({8}), Role::vector), short_bias(numbers({3}), Role::vector);
  EXPECT_EQ(Saved(conv2d(image, frozen, bias)).recompute_sweeps(), 1);
  EXPECT_EQ(Saved(conv2d(image, narrow, short_bias)).recompute_sweeps(), 0);
}

TEST(Saved, RunningStatisticsMoveOnce) {
  const RecomputeAbove limit(0);
  Random random(1, Purpose::init);
  BatchNorm2d norm(4);
  const Conv2d conv(4, 4, 1, {}, true, random);
  Tensor x = numbers({2, 3, 3, 4}).track();
  const Tensor y = conv(batchnorm_gelu(x, norm));
  const Tensor mean = norm.running_mean.clone(), var = norm.running_var.clone();
  backward(y, numbers(y.shape()));
  EXPECT_TRUE(test::same_bits(norm.running_mean, mean));
  EXPECT_TRUE(test::same_bits(norm.running_var, var));
  EXPECT_EQ(norm.num_batches_tracked.item(), 1);
}

TEST(Saved, AGraphThatHasRunSaysSo) {
  const RecomputeAbove limit(0);
  Tensor x = numbers({4, 5}).track();
  const Tensor y = gelu(x), one = gelu(y), other = gelu(y);
  const Tensor dy = numbers({4, 5});
  backward(one, dy);
  EXPECT_EQ(error_text([&] { backward(other, dy); }),
            "backward: this graph has run already, and what it had saved is released\nhint: run forward again");
}

TEST(Saved, MemoryGoesWithTheGraph) {
  const RecomputeAbove limit(0);
  Tensor x = numbers({64, 64}).track();
  const std::size_t before = pool::statistics().in_use;
  {
    const LayerNorm norm(64);
    const Tensor y = gelu(norm(gelu(x)));
    const Tensor again = Saved(y).get();
  }
  EXPECT_EQ(pool::statistics().in_use, before);
}

}  // namespace
}  // namespace dattn
