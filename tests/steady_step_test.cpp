// From its third step on, training asks the system for no memory: no operator new, and no new block of the pool.
#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "core/autograd.h"
#include "core/memory.h"
#include "core/random.h"
#include "count_new.h"
#include "layers/loss.h"
#include "tile_blocks.h"
#include "train/models.h"
#include "train/recipe.h"

namespace dattn::test {
namespace {

// By name: activations, and whether convolutions go by tiles too, as they do with AMX.
struct Precision {
  const char* name;
  Dtype dtype;
  bool tiles;
};

class SteadyStep : public testing::TestWithParam<std::tuple<const char*, Precision>> {};

TEST_P(SteadyStep, AsksTheSystemForNothing) {
  if (!kCountsNew) GTEST_SKIP() << "the pool caches nothing under this sanitizer, and operator new is its own";
  const Precision precision = std::get<1>(GetParam());
  if (precision.tiles && !tile_block()) GTEST_SKIP() << "plain code in place of tiles takes too long";
  const UseTileBlock use(precision.tiles ? tile_block() : nullptr);
  TrainOptions options;
  options.data = "synthetic";
  options.attention = std::get<0>(GetParam());
  Random random(0, Purpose::init);
  const auto model = make_model({"dattn_cnn", options.attention, 10}, random);
  const auto recipe = make_recipe(options, plan_recipe(options, Device::cpu), *model, 100, 10);
  Tensor images = Tensor::empty({6, 32, 32, 3}), labels = Tensor::empty({6}, Dtype::int64);
  for (std::int64_t i = 0; i < images.elements(); ++i) {
    images.data<float>()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  for (std::int64_t i = 0; i < 6; ++i) labels.data<std::int64_t>()[i] = i;
  const auto step = [&](std::int64_t number) {
    recipe->prepare(number);
    const Tensor loss = cross_entropy(model->forward(images.to(precision.dtype)), labels, 0.2, Reduction::sum);
    backward(loss);
    recipe->step();
  };
  step(0), step(1);
  const long calls = new_calls();
  const auto requests = pool::statistics().system_requests;
  for (std::int64_t number = 2; number < 6; ++number) step(number);
  EXPECT_EQ(new_calls() - calls, 0);
  EXPECT_EQ(pool::statistics().system_requests, requests);
}

constexpr Precision kPrecisions[] = {{"float32", Dtype::float32, false},
                                     {"bfloat16", Dtype::bfloat16, false},
                                     {"bfloat16_tiles", Dtype::bfloat16, true}};

INSTANTIATE_TEST_SUITE_P(Networks, SteadyStep,
                         testing::Combine(testing::Values("dattention", "self", "none"),
                                          testing::ValuesIn(kPrecisions)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param)) + "_" + std::get<1>(test.param).name;
                         });

}  // namespace
}  // namespace dattn::test
