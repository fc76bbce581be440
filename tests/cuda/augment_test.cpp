// Augmentation on the device: the CPU's bits for every option, in both storage types, for small and large images.
#include "datasets/augment.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "cuda/enable.h"
#include "order.h"
#include "slots.h"

namespace dattn::test {
namespace {

class CudaAugment : public testing::Test {
 protected:
  void SetUp() override { cuda::enable(); }
  void TearDown() override { run_in_order(0); }

  static Tensor random_images(const Shape& shape) {
    Tensor images = Tensor::empty(shape, Dtype::uint8);
    Random random(8, Purpose::test);
    for (std::int64_t i = 0; i < images.elements(); ++i) {
      images.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(random.next_below(256));
    }
    return images;
  }

  // y of the plan for `picks` on the CPU and on the device.
  static void expect_same(const Shape& shape, const AugmentOptions& options, const std::vector<std::int64_t>& picks) {
    const Tensor images = random_images(shape), table = normalisation_table({{0.4f, 0.5f, 0.6f}, {0.2f, 0.25f, 0.3f}});
    AugmentPlan plan;
    draw_plan(options, 3, 1, picks, shape, plan);
    const auto batch = static_cast<std::int64_t>(picks.size());
    for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16}) {
      Tensor y = Tensor::empty(shape.with(0, batch), dtype), there = y.to(Device::cuda);
      augment_forward(images, plan.parts, plan.weights, table, options.cutout, y);
      augment_forward(images.to(Device::cuda), plan.parts.to(Device::cuda), plan.weights.to(Device::cuda),
                      table.to(Device::cuda), options.cutout, there);
      EXPECT_TRUE(same_bits(there.to(Device::cpu), y)) << shape.text() << name(dtype);
    }
  }
};

TEST_F(CudaAugment, EveryOptionGivesTheCpusBits) {
  const Shape shape{40, 7, 9, 3};
  std::vector<std::int64_t> all(40);
  std::iota(all.rbegin(), all.rend(), 0);
  expect_same(shape, {}, all);
  expect_same(shape, {.translate = 2}, all);
  expect_same(shape, {.translate = 6}, all);
  expect_same(shape, {.flip = Flip::random}, all);
  expect_same(shape, {.cutout = 4}, all);
  expect_same(shape, {.mixup = 1}, all);
  run_in_order(1);
  expect_same(shape, {.translate = 3, .flip = Flip::alternating, .cutout = 5, .mixup = 0.3}, all);
}

TEST_F(CudaAugment, LargeNarrowAndNoImages) {
  const AugmentOptions everything{.translate = 5, .flip = Flip::random, .cutout = 9, .mixup = 0.4};
  expect_same({3, 67, 101, 3}, everything, {2, 0, 2});  // 7 blocks an image
  expect_same({5, 9, 1, 3}, {.flip = Flip::random}, {4, 3});
  expect_same({2, 4, 4, 3}, {}, {});
}

TEST_F(CudaAugment, AnImageOutsideOfTheSetIsNotANumber) {
  const Tensor images = random_images({2, 4, 4, 3}).to(Device::cuda);
  const Tensor table = normalisation_table({}).to(Device::cuda), weights = Tensor::full({3, 1}, 1).to(Device::cuda);
  const Tensor parts =
      Tensor::from<std::int32_t>({3, 1, AugmentPlan::kColumns}, std::vector<std::int32_t>{2, 0, 0, 0, 0, 0,  //
                                                                                          1, 0, 0, 0, 0, 0,  //
                                                                                          -1, -1, -1, -1, -1, -1})
          .to(Device::cuda);
  Tensor y = empty_on_device({3, 4, 4, 3});
  augment_forward(images, parts, weights, table, 2, y);
  const Tensor back = y.to(Device::cpu);
  for (std::int64_t i = 0; i < back.elements(); ++i) EXPECT_EQ(std::isnan(back.at(i)), i / 48 != 1) << i;
}

}  // namespace
}  // namespace dattn::test
