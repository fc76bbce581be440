// Training steps on the device: those of the CPU within rounding, and the same bits wherever a run begins.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/ops.h"
#include "cuda/enable.h"
#include "layers/dattention.h"
#include "op_compare.h"
#include "optim/adam.h"
#include "optim/muon.h"
#include "optim/schedule.h"
#include "optim/sgd.h"
#include "tiny_classifier.h"
#include "train/steps.h"

namespace dattn::test {
namespace {

constexpr std::int64_t kImages = 14, kBatch = 4, kClasses = 3;  // three steps an epoch
constexpr std::int64_t kLastStep = 8;
constexpr double kDrop = 0.2;

struct TinyNet : Classifier {
  Conv2d conv;
  BatchNorm2d norm;
  DAttention attention;
  Linear head;
  Dropout dropout;

  explicit TinyNet(Random& random)
      : conv(3, 8, 3, {.padding = 1}, true, random),
        norm(8),
        attention(
            {.channel = 8, .q_h = 8, .q_w = 6, .n_heads = 2, .n_groups = 1, .attn_drop = kDrop, .proj_drop = kDrop},
            random),
        head(8, kClasses, true, random),
        dropout(kDrop, random) {}
  Tensor forward(const Tensor& images) override {
    const Tensor features = global_avg_pool(attention(batchnorm_gelu(conv(images), norm)));
    return head(dropout(cast(features, exact_type(features.dtype()))));
  }
  void visit(Visitor& v) override {
    v("conv", conv);
    v("norm", norm);
    v("attention", attention);
    v("head", head);
  }
};

// One of each optimizer, rates that change every step, and a bias that learns for four steps, in the middle of an
// epoch.
class TinyRecipe final : public Recipe {
 public:
  explicit TinyRecipe(TinyNet& net)
      : Recipe({{{"conv.weight", net.conv.weight}}, vectors(net), group_by_role(parameters(net.attention), kAll)[0]}),
        bias_(net.conv.bias),
        muon_(add<Muon>({{flat().group(0), 0.01, 0.01}}, MuonOptions{.newton_schulz = {.bfloat16_on_device = false}})),
        sgd_(add<Sgd>({{flat().group(1), 0.02, 0.001}}, SgdOptions{.momentum = 0.9, .nesterov = true})),
        adamw_(add<AdamW>({{flat().group(2), 0.002, 0.01}}, AdamOptions{})) {}

  void prepare(std::int64_t step) override {
    bias_.set_trainable(step < 4);
    muon_->groups()[0].lr = 0.01 * falling_(step);
    sgd_->groups()[0].lr = 0.02 * falling_(step);
    adamw_->groups()[0].lr = 0.002 * falling_(step);
  }
  double learning_rate() const override { return sgd_->groups()[0].lr; }

 private:
  static inline const std::vector<std::vector<Role>> kAll = {{Role::matrix, Role::vector, Role::table}};

  static std::vector<NamedParameter> vectors(TinyNet& net) {
    return {{"conv.bias", net.conv.bias},
            {"norm.weight", net.norm.weight},
            {"norm.bias", net.norm.bias},
            {"head.weight", net.head.weight},
            {"head.bias", net.head.bias}};
  }

  Parameter bias_;
  Muon* muon_;
  Sgd* sgd_;
  AdamW* adamw_;
  Schedule falling_ = schedule::linear(1, 0, 2 * kLastStep);
};

// A whole run: a network, its recipe and averages on a device, and the steps.
struct TinyRun {
  Random random{5, Purpose::init};
  TinyNet net{random};
  RecipePlan plan;
  std::unique_ptr<TinyRecipe> recipe;
  std::unique_ptr<Ema> averages;
  std::unique_ptr<Steps> steps;

  TinyRun(Device device, const RecipePlan& with) : plan(with) {
    move_to(net, device);
    recipe = std::make_unique<TinyRecipe>(net);
    averages = std::make_unique<Ema>(recipe->flat(), buffers(net), EmaOptions{.decay = 0.9, .warm_up = true});
    const auto make = device == Device::cpu ? make_host_steps : make_device_steps;
    steps = make({net, *recipe, averages.get(), plan, 7}, tiny_images(kImages, kClasses), kTinyNormalisation);
  }

  void run(std::int64_t from, std::int64_t to) {
    for (std::int64_t step = from; step < to; ++step) steps->run(step);
  }
  // Everything that a checkpoint holds.
  std::vector<NamedTensor> tensors() {
    std::vector<NamedTensor> all = recipe->state();
    for (const auto& [name, p] : parameters(net)) all.push_back({name, p.value()});
    for (const auto& buffer : buffers(net)) all.push_back(buffer);
    for (const auto& [name, average] : averages->state()) all.push_back({"ema." + name, average});
    return all;
  }
};

RecipePlan tiny_plan() {
  return {.epochs = 3,
          .batch_size = kBatch,
          .label_smoothing = 0.1,
          .reduction = Reduction::sum,
          .augment = {.translate = 1, .flip = Flip::alternating, .cutout = 2}};
}

class DeviceSteps : public testing::Test {
 protected:
  void SetUp() override { cuda::enable(); }
};

void expect_same_bits(const std::vector<NamedTensor>& a, const std::vector<NamedTensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    const Tensor x = a[i].tensor.to(Device::cpu), y = b[i].tensor.to(Device::cpu);
    EXPECT_EQ(std::memcmp(x.raw(), y.raw(), x.bytes()), 0) << a[i].name;
  }
}

TEST_F(DeviceSteps, AreThoseOfTheCpu) {
  for (const double mixup : {0.0, 0.5}) {
    RecipePlan plan = tiny_plan();
    plan.augment.mixup = mixup;
    TinyRun here(Device::cpu, plan), there(Device::cuda, plan);
    here.run(0, kLastStep);
    there.run(0, kLastStep);
    EXPECT_NEAR(there.steps->sums().loss, here.steps->sums().loss, 1e-3 * here.steps->sums().loss);
    EXPECT_EQ(there.recipe->learning_rate(), here.recipe->learning_rate());
    const auto expected = here.tensors(), got = there.tensors();
    ASSERT_EQ(got.size(), expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      const Tensor y = expected[i].tensor.to(Dtype::float64);
      EXPECT_LE(distance(got[i].tensor.to(Device::cpu).to(Dtype::float64), y), 0.01 * largest(y) + 1e-6)
          << got[i].name << ", mixup " << mixup;
    }
  }
}

TEST_F(DeviceSteps, GoOnAnywhereWithTheSameBits) {
  TinyRun whole(Device::cuda, tiny_plan()), first(Device::cuda, tiny_plan()), second(Device::cuda, tiny_plan());
  whole.run(0, kLastStep);
  first.run(0, 5);
  const auto from = first.tensors(), to = second.tensors();
  for (std::size_t i = 0; i < to.size(); ++i) Tensor(to[i].tensor).copy_from(from[i].tensor);
  second.steps->set_sums(first.steps->sums());
  second.run(5, kLastStep);
  expect_same_bits(second.tensors(), whole.tensors());
  EXPECT_EQ(second.steps->sums().loss, whole.steps->sums().loss);
  EXPECT_EQ(second.steps->sums().correct, whole.steps->sums().correct);
}

TEST_F(DeviceSteps, TrainInBfloat16) {
  RecipePlan rounded = tiny_plan();
  rounded.precision = Dtype::bfloat16;
  TinyRun here(Device::cuda, tiny_plan()), there(Device::cuda, rounded);
  here.run(0, kLastStep);
  there.run(0, kLastStep);
  EXPECT_NEAR(there.steps->sums().loss, here.steps->sums().loss, 0.05 * here.steps->sums().loss);
}

TEST_F(DeviceSteps, NameTheStepThatLostItsNumbers) {
  TinyRun lost(Device::cuda, tiny_plan());
  lost.run(0, 2);
  lost.net.head.bias.value().fill(std::numeric_limits<double>::quiet_NaN());
  lost.run(2, 5);
  try {
    lost.steps->sums();
    FAIL() << "nothing was thrown";
  } catch (const NonFiniteLoss& numbers) {
    EXPECT_EQ(numbers.step, 2);
    EXPECT_FALSE(std::isfinite(numbers.loss));
  }
}

}  // namespace
}  // namespace dattn::test
