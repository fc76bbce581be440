// The networks: names of their tensors, gradients of the whole in double, and a network that overfits 32 images.
#include <gtest/gtest.h>

#include <cmath>

#include "core/ops.h"
#include "layers/loss.h"
#include "op_cases.h"
#include "small.h"
#include "tile_blocks.h"
#include "train/checkpoint.h"
#include "train/dattn_cnn.h"
#include "train/recipe.h"

namespace dattn::test {
namespace {

Tensor classes(std::int64_t count) {
  Tensor labels = Tensor::empty({count}, Dtype::int64);
  for (std::int64_t i = 0; i < count; ++i) labels.data<std::int64_t>()[i] = (3 * i + 1) % 10;
  return labels;
}

double loss_of(Classifier& model, const Tensor& images, const Tensor& labels) {
  NoGrad no_grad;
  return cross_entropy(model.forward(images), labels, 0.2, Reduction::sum).item();
}

// <gradient, v> of one parameter against the central difference of the loss along v, a random direction.
void check_direction(Classifier& model, const Tensor& images, const Tensor& labels, const NamedParameter& named,
                     std::uint32_t lane) {
  const Tensor v = normal(named.parameter.shape(), lane);
  Tensor w = named.parameter.value();
  double analytic = 0, norm = 0;
  for (std::int64_t i = 0; i < v.elements(); ++i) {
    analytic += v.at(i) * named.parameter.grad().at(i);
    norm += v.at(i) * v.at(i);
  }
  const double h = 1e-6 / std::sqrt(norm);
  auto at = [&](double shift) {
    const Tensor before = w.clone();
    for (std::int64_t i = 0; i < v.elements(); ++i) w.data<double>()[i] += shift * v.at(i);
    const double loss = loss_of(model, images, labels);
    w.copy_from(before);
    return loss;
  };
  const double numeric = (at(h) - at(-h)) / (2 * h);
  EXPECT_NEAR(analytic, numeric, 1e-5 * std::max(std::abs(analytic), std::abs(numeric)) + 1e-3) << named.name;
}

void check_network(const DattnCnnSizes& sizes, const ModelOptions& options) {
  Random random(3, Purpose::init);
  DattnCnn model(sizes, options, random);
  convert(model, Dtype::float64);
  // Output projections start at zero; other numbers let every gradient show.
  std::uint32_t lane = 5000;
  for (auto& [name, p] : parameters(model)) {
    if (name.find("proj_out") != std::string::npos) p.value().copy_from(normal(p.shape(), lane++, 0.1));
  }
  const std::int64_t count = small() ? 1 : 4;
  const Tensor images = normal({count, 32, 32, 3}, 1), labels = classes(count);
  backward(cross_entropy(model.forward(images), labels, 0.2, Reduction::sum));
  const auto all = parameters(model);
  for (std::size_t i = 0; i < all.size(); i += small() ? 5 : 1) {
    if (all[i].parameter.trainable()) check_direction(model, images, labels, all[i], lane++);
  }
}

TEST(WholeNetwork, GradientsOfDattnCnnWithDattention) { check_network(kDattnCnn, {}); }
TEST(WholeNetwork, GradientsOfDattnCnnWithSelfAttention) { check_network(kDattnCnn, {.attention = "self"}); }
TEST(WholeNetwork, GradientsOfGroupsOfThreeConvolutions) { check_network({{32, 64, 64}, 3}, {}); }
TEST(WholeNetwork, GradientsWithSamplesOfALargeMap) {
  check_network({{32, 32, 32}, 2}, {.attention_maps = {31}, .attention_stride = 4});
}

// The loss before the first and at the last of some steps on `count` images.
std::pair<double, double> overfit(const std::string& name, std::int64_t count, int steps) {
  TrainOptions options;
  options.model = name;
  options.batch_size = count;
  RecipePlan plan = plan_recipe(options, Device::cpu);
  Random random(1, Purpose::init);
  const auto model = make_model({name, "dattention", 10}, random);
  const auto recipe = make_recipe(options, plan, *model, steps, 10);
  const Tensor images = normal({count, 32, 32, 3}, 1).to(Dtype::float32), labels = classes(count);
  model->init_from_data(images);
  double first = 0, last = 0;
  for (int step = 0; step < steps; ++step) {
    recipe->prepare(step);
    const Tensor loss = cross_entropy(model->forward(images), labels, 0, Reduction::mean);
    (step == 0 ? first : last) = loss.item();
    backward(scale(loss, static_cast<double>(count)));
    recipe->step();
  }
  return {first, last};
}

TEST(WholeNetwork, OverfitsThirtyTwoImages) {
  if (small()) GTEST_SKIP() << "long; what it runs is looked at by shorter tests too";
  const auto [first, last] = overfit("dattn_cnn", 32, 40);
  EXPECT_GT(first, 2);
  EXPECT_LT(last, 0.2);
}

TEST(WholeNetwork, TheWideOneOverfitsEightImages) {
  if (small()) GTEST_SKIP() << "long; what it runs is looked at by shorter tests too";
  const auto [first, last] = overfit("dattn_cnn_wide", 8, 20);
  EXPECT_GT(first, 2);
  EXPECT_LT(last, 0.2);
}

TEST(WholeNetwork, TheUsualPrecisionIsTheFastestMeasured) {
  TrainOptions options;
  const auto usual = [&](const char* model, Device device) {
    options.model = model;
    return plan_recipe(options, device).precision;
  };
  for (const TileBlockFunction function : {TileBlockFunction(nullptr), TileBlockFunction(tile_block_reference)}) {
    const UseTileBlock use(function);
    EXPECT_EQ(usual("dattn_cnn", Device::cpu), tile_block() ? Dtype::bfloat16 : Dtype::float32);
    EXPECT_EQ(usual("dattn_cnn", Device::cuda), Dtype::float32);
    EXPECT_EQ(usual("resnet18", Device::cpu), Dtype::float32);
  }
  options.precision = "bfloat16";
  EXPECT_EQ(usual("resnet18", Device::cuda), Dtype::bfloat16);
}

// The recipe: what differs is the length, the augmentation, the batch and the rates.
TEST(WholeNetwork, TheWideOneHasARecipeOfItsOwn) {
  TrainOptions options;
  options.data = "cifar10";
  options.model = "dattn_cnn_wide";
  const RecipePlan plan = plan_recipe(options, Device::cpu);
  EXPECT_EQ(plan.epochs, 32);
  EXPECT_EQ(plan.batch_size, 1000);
  EXPECT_EQ(plan.augment.translate, 4);
  EXPECT_EQ(plan.augment.cutout, 12);
  Random random(1, Purpose::init);
  const auto model = make_model({options.model, "none", 10}, random);
  const auto recipe = make_recipe(options, plan, *model, 100, 10);
  recipe->prepare(0);
  EXPECT_NEAR(recipe->learning_rate(), 0.78 * 0.24 * std::sqrt(0.5), 1e-12);
}

// The names and shapes that the PyTorch peer's state_dict has.
TEST(Checkpoint, TensorsHaveThePeersNames) {
  Random random(1, Purpose::init);
  DattnCnn model(kDattnCnn, {}, random);
  std::map<std::string, Shape> found;
  for (const auto& [name, x] : state_dict(model)) found[name] = x.shape();
  EXPECT_EQ(found.size(), 79u);
  for (const char* name :
       {"whiten.weight", "whiten.bias", "group1.conv1.weight", "group3.norm2.running_var",
        "group2.norm1.num_batches_tracked", "attention1.norm.weight", "attention1.attention.conv_offset.0.weight",
        "attention2.attention.conv_offset.1.norm.bias", "attention2.attention.conv_offset.3.weight",
        "attention1.attention.proj_out.bias", "attention1.attention.rpe_table.weight", "head.weight"}) {
    EXPECT_TRUE(found.count(name)) << name;
  }
}

}  // namespace
}  // namespace dattn::test
