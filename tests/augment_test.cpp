// Augmentation: every option against its definition written out plainly, and its dependence on (seed, epoch, image)
// alone.
#include "datasets/augment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "core/parallel.h"
#include "data_files.h"
#include "error_text.h"

namespace dattn::test {

namespace {

constexpr std::int64_t kCount = 400, kHeight = 7, kWidth = 9, kValues = kHeight * kWidth * 3;
constexpr Normalisation kNormalisation{{0.4f, 0.5f, 0.6f}, {0.2f, 0.25f, 0.3f}};

Tensor random_images(std::int64_t count = kCount) {
  Tensor images = Tensor::empty({count, kHeight, kWidth, 3}, Dtype::uint8);
  Random random(8, Purpose::test);
  for (std::int64_t i = 0; i < images.elements(); ++i) {
    images.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(random.next_below(256));
  }
  return images;
}

std::vector<std::int64_t> range(std::int64_t count) {
  std::vector<std::int64_t> picks;
  for (std::int64_t i = 0; i < count; ++i) picks.push_back(i);
  return picks;
}

AugmentPlan plan_of(const AugmentOptions& options, std::uint64_t seed, std::int64_t epoch,
                    const std::vector<std::int64_t>& picks, std::int64_t count = kCount) {
  AugmentPlan plan;
  draw_plan(options, seed, epoch, picks, {count, kHeight, kWidth, 3}, plan);
  return plan;
}

Tensor augmented(const Tensor& images, const AugmentPlan& plan, std::int64_t cutout = 0) {
  Tensor y = Tensor::empty(images.shape().with(0, plan.parts.size(0)));
  augment_forward(images, plan.parts, plan.weights, normalisation_table(kNormalisation), cutout, y);
  return y;
}

std::int32_t column(const AugmentPlan& plan, std::int64_t b, AugmentPlan::Column c, std::int64_t part = 0) {
  return plan.parts.data<std::int32_t>()[(b * plan.parts.size(1) + part) * AugmentPlan::kColumns + c];
}

/// The value at (i, j, c) of one part, from the definition: mirror the image, pad it by reflection, shift, cut,
/// normalise.
double expected(const Tensor& images, const AugmentPlan& plan, std::int64_t b, std::int64_t part, std::int64_t cutout,
                std::int64_t i, std::int64_t j, std::int64_t c) {
  const auto of = [&](AugmentPlan::Column which) { return static_cast<std::int64_t>(column(plan, b, which, part)); };
  const std::int64_t cut_i = i - of(AugmentPlan::cut_y), cut_j = j - of(AugmentPlan::cut_x);
  if (cut_i >= 0 && cut_i < cutout && cut_j >= 0 && cut_j < cutout) return 0;
  std::int64_t y = std::abs(i + of(AugmentPlan::shift_y)), x = std::abs(j + of(AugmentPlan::shift_x));
  y = y > kHeight - 1 ? 2 * (kHeight - 1) - y : y;
  x = x > kWidth - 1 ? 2 * (kWidth - 1) - x : x;
  if (of(AugmentPlan::mirrored)) x = kWidth - 1 - x;
  const double byte = images.data<std::uint8_t>()[of(AugmentPlan::image) * kValues + (y * kWidth + x) * 3 + c];
  const auto k = static_cast<std::size_t>(c);
  return (byte / 255 - kNormalisation.mean[k]) / kNormalisation.std[k];
}

void expect_defined_values(const AugmentOptions& options) {
  const Tensor images = random_images();
  const AugmentPlan plan = plan_of(options, 1, 2, range(kCount));
  const Tensor y = augmented(images, plan, options.cutout);
  for (std::int64_t b = 0; b < kCount; ++b) {
    for (std::int64_t e = 0; e < kValues; ++e) {
      double sum = 0;
      for (std::int64_t p = 0; p < plan.parts.size(1); ++p) {
        sum += plan.weights.at(b * plan.parts.size(1) + p) *
               expected(images, plan, b, p, options.cutout, e / 3 / kWidth, e / 3 % kWidth, e % 3);
      }
      ASSERT_NEAR(y.at(b * kValues + e), sum, 1e-6) << "image " << b << " value " << e;
    }
  }
}

TEST(Augment, ValuesFollowTheDefinition) {
  expect_defined_values({});
  expect_defined_values({.translate = 2});
  expect_defined_values({.translate = 6});
  expect_defined_values({.flip = Flip::random});
  expect_defined_values({.cutout = 4});
  expect_defined_values({.mixup = 1});
  expect_defined_values({.translate = 3, .flip = Flip::alternating, .cutout = 5, .mixup = 0.3});
}

TEST(Augment, Bfloat16IsTheRoundedValue) {
  const Tensor images = random_images(5), table = normalisation_table(kNormalisation);
  const AugmentPlan plan = plan_of({.mixup = 0.5}, 1, 2, range(5), 5);
  Tensor y = Tensor::empty(images.shape(), Dtype::bfloat16);
  augment_forward(images, plan.parts, plan.weights, table, 0, y);
  const Tensor expected = augmented(images, plan).to(Dtype::bfloat16);
  EXPECT_EQ(std::memcmp(y.raw(), expected.raw(), y.bytes()), 0);
}

TEST(Augment, NormaliseLeavesImagesInPlace) {
  const Tensor images = random_images(3), y = normalise(images, kNormalisation);
  ASSERT_EQ(y.shape(), images.shape());
  for (std::int64_t i = 0; i < y.elements(); ++i) {
    const auto c = static_cast<std::size_t>(i % 3);
    EXPECT_NEAR(y.at(i), (images.at(i) / 255 - kNormalisation.mean[c]) / kNormalisation.std[c], 1e-6);
  }
}

TEST(Augment, ReflectionDoesNotRepeatTheBorder) {
  Tensor images = Tensor::empty({1, 3, 4, 3}, Dtype::uint8);
  for (std::int64_t i = 0; i < 36; ++i) images.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(i / 3);
  // Shift (-2, 2) of a 3x4 image: rows 2, 1, 0 and columns 2, 3, 2, 1.
  AugmentPlan plan;
  plan.parts = Tensor::from<std::int32_t>({1, 1, AugmentPlan::kColumns}, std::vector<std::int32_t>{0, -2, 2, 0, 0, 0});
  plan.weights = Tensor::from<float>({1, 1}, std::vector{1.0f});
  Tensor y = Tensor::empty(images.shape());
  augment_forward(images, plan.parts, plan.weights,
                  normalisation_table({{0, 0, 0}, {1.0f / 255, 1.0f / 255, 1.0f / 255}}), 0, y);
  const std::vector<int> rows{2, 1, 0}, columns{2, 3, 2, 1};
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 4; ++j) {
      EXPECT_NEAR(y.at(static_cast<std::int64_t>(i * 4 + j) * 3), rows[i] * 4 + columns[j], 1e-4);
    }
  }
}

TEST(Augment, EveryShiftComesUpEquallyOften) {
  const AugmentPlan plan = plan_of({.translate = 2}, 3, 0, range(5000), 5000);
  std::map<std::pair<int, int>, int> counts;
  for (std::int64_t b = 0; b < 5000; ++b)
    ++counts[{column(plan, b, AugmentPlan::shift_y), column(plan, b, AugmentPlan::shift_x)}];
  EXPECT_EQ(counts.size(), 25u);
  for (const auto& [shift, count] : counts) {
    EXPECT_LE(std::max(std::abs(shift.first), std::abs(shift.second)), 2);
    EXPECT_NEAR(count, 200, 60);  // four deviations
  }
}

TEST(Augment, CutoutsCentresCoverTheImage) {
  const std::int64_t cutout = 4;
  const AugmentPlan plan = plan_of({.cutout = cutout}, 3, 0, range(5000), 5000);
  std::map<std::pair<int, int>, int> counts;
  for (std::int64_t b = 0; b < 5000; ++b)
    ++counts[{column(plan, b, AugmentPlan::cut_y), column(plan, b, AugmentPlan::cut_x)}];
  EXPECT_EQ(counts.size(), static_cast<std::size_t>(kHeight * kWidth));
  EXPECT_EQ(counts.begin()->first, std::make_pair(-2, -2));
  EXPECT_EQ(counts.rbegin()->first, std::make_pair(static_cast<int>(kHeight) - 3, static_cast<int>(kWidth) - 3));
}

TEST(Augment, FlipsRandomAndAlternating) {
  const auto flips = [](Flip flip, std::int64_t epoch) {
    const AugmentPlan plan = plan_of({.flip = flip}, 5, epoch, range(kCount));
    std::vector<int> found;
    for (std::int64_t b = 0; b < kCount; ++b) found.push_back(column(plan, b, AugmentPlan::mirrored));
    return found;
  };
  const auto mirrored = [](const std::vector<int>& found) { return std::ranges::count(found, 1); };
  EXPECT_EQ(mirrored(flips(Flip::none, 0)), 0);
  EXPECT_NEAR(mirrored(flips(Flip::random, 0)), kCount / 2, 40);
  EXPECT_NE(flips(Flip::random, 0), flips(Flip::random, 2));
  const auto first = flips(Flip::alternating, 0), second = flips(Flip::alternating, 1);
  EXPECT_NEAR(mirrored(first), kCount / 2, 40);
  for (std::size_t i = 0; i < first.size(); ++i) EXPECT_EQ(first[i] + second[i], 1);
  EXPECT_EQ(flips(Flip::alternating, 2), first);
  EXPECT_EQ(flips(Flip::alternating, 7), second);
}

TEST(Augment, MixupWeightsFollowBeta) {
  for (const double alpha : {0.01, 0.2, 0.5, 1.0}) {
    const AugmentPlan plan = plan_of({.mixup = alpha}, 5, 0, range(20000), 20000);
    double sum = 0, squares = 0;
    std::int64_t with_itself = 0;
    for (std::int64_t b = 0; b < 20000; ++b) {
      const double w = plan.weights.at(2 * b);
      ASSERT_TRUE(w >= 0 && w <= 1) << w;
      EXPECT_FLOAT_EQ(static_cast<float>(w + plan.weights.at(2 * b + 1)), 1);
      sum += w, squares += w * w;
      with_itself += column(plan, b, AugmentPlan::image, 0) == column(plan, b, AugmentPlan::image, 1);
    }
    const double mean = sum / 20000, variance = squares / 20000 - mean * mean;
    EXPECT_NEAR(mean, 0.5, 0.015) << alpha;
    EXPECT_NEAR(variance, 1 / (4 * (2 * alpha + 1)), 0.005) << alpha;
    EXPECT_LT(with_itself, 10);
  }
}

TEST(Augment, SoftTargetsCarryTheWeights) {
  const Tensor labels = Tensor::from<std::int64_t>({4}, std::vector<std::int64_t>{2, 0, 1, 2});
  AugmentPlan plan = plan_of({.mixup = 0.5}, 5, 0, {3, 1, 2}, 4);
  Tensor y = Tensor::empty({3, 3});
  soft_targets(labels, plan, y);
  for (std::int64_t b = 0; b < 3; ++b) {
    std::vector<double> expected_row(3);
    for (std::int64_t p = 0; p < 2; ++p) {
      expected_row[static_cast<std::size_t>(labels.at(column(plan, b, AugmentPlan::image, p)))] +=
          plan.weights.at(2 * b + p);
    }
    for (std::int64_t k = 0; k < 3; ++k) EXPECT_NEAR(y.at(3 * b + k), expected_row[static_cast<std::size_t>(k)], 1e-6);
  }
}

TEST(Augment, AnImagesFateDoesNotDependOnItsBatch) {
  const Tensor images = random_images();
  const AugmentOptions options{.translate = 2, .flip = Flip::random, .cutout = 3, .mixup = 0.4};
  const int threads = thread_count();
  set_thread_count(1);
  const Tensor all = augmented(images, plan_of(options, 1, 2, range(kCount)), options.cutout);
  set_thread_count(4);
  const std::vector<std::int64_t> picks{399, 0, 17, 250};
  const Tensor some = augmented(images, plan_of(options, 1, 2, picks), options.cutout);
  set_thread_count(threads);
  const auto row = [](const Tensor& x, std::int64_t i) { return x.data<float>() + i * kValues; };
  for (std::int64_t b = 0; b < 4; ++b) {
    EXPECT_EQ(std::memcmp(row(some, b), row(all, picks[static_cast<std::size_t>(b)]), kValues * sizeof(float)), 0);
  }
  const auto differs = [&](std::uint64_t seed, std::int64_t epoch) {
    const Tensor other = augmented(images, plan_of(options, seed, epoch, picks), options.cutout);
    return std::memcmp(other.raw(), some.raw(), some.bytes()) != 0;
  };
  EXPECT_FALSE(differs(1, 2));
  EXPECT_TRUE(differs(1, 3));
  EXPECT_TRUE(differs(2, 2));
}

TEST(Augment, ImpossibleOptionsAreRefused) {
  const auto refusal = [](const AugmentOptions& options) {
    return error_text([&] { check_augment(options, 32, 28); });
  };
  EXPECT_EQ(refusal({.translate = 27, .flip = Flip::random, .cutout = 28, .mixup = 1}), "no error");
  EXPECT_EQ(
      refusal({.translate = 28}),
      "augment: translate expects 0 to 27 pixels for images of 32x28 (reflection needs a pixel to mirror), got 28");
  EXPECT_EQ(
      refusal({.translate = -1}),
      "augment: translate expects 0 to 27 pixels for images of 32x28 (reflection needs a pixel to mirror), got -1");
  EXPECT_EQ(refusal({.cutout = 29}), "augment: cutout expects 0 to 28 pixels for images of 32x28, got 29");
  EXPECT_EQ(refusal({.mixup = 1.5}), "augment: mixup expects an alpha of 0 to 1, got 1.5");
  EXPECT_EQ(refusal({.mixup = std::nan("")}), "augment: mixup expects an alpha of 0 to 1, got nan");
}

}  // namespace

}  // namespace dattn::test
