// Evaluation: its numbers from the logits of a small network, batch sizes, stopping. The device's is in
// cuda/evaluate_test.cpp.
#include "train/evaluate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "cuda/out_of_memory.h"
#include "datasets/augment.h"
#include "error_text.h"
#include "layers/loss.h"
#include "tiny_classifier.h"

namespace dattn::test {
namespace {

constexpr std::int64_t kCount = 11, kClasses = 7;

TEST(Evaluate, CountsWhatTheLogitsSay) {
  TinyClassifier model(kClasses);
  const ImageSet set = tiny_images(kCount, kClasses);
  const Evaluation e = *evaluate(model, set, kTinyNormalisation, {});
  set_training(model, false);
  const Tensor logits = model.forward(normalise(set.images, kTinyNormalisation));
  EXPECT_NEAR(e.loss, cross_entropy(logits, set.labels).item(), 1e-5);
  std::int64_t first = 0, five = 0;
  std::vector<std::int64_t> confusion(kClasses * kClasses);
  for (std::int64_t i = 0; i < kCount; ++i) {
    std::array<std::int64_t, kClasses> order{};
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return logits.at(i * kClasses + a) > logits.at(i * kClasses + b);
    });
    const auto label = static_cast<std::int64_t>(set.labels.at(i));
    const auto rank = std::find(order.begin(), order.end(), label) - order.begin();
    first += rank == 0;
    five += rank < 5;
    ++confusion[static_cast<std::size_t>(label * kClasses + order[0])];
  }
  EXPECT_EQ(e.images, kCount);
  EXPECT_DOUBLE_EQ(e.accuracy, static_cast<double>(first) / kCount);
  EXPECT_DOUBLE_EQ(e.top5, static_cast<double>(five) / kCount);
  EXPECT_EQ(e.confusion, confusion);
  EXPECT_FALSE(e.accuracy_tta);
}

TEST(Evaluate, LogitsThatAreNotFiniteAreAnError) {
  TinyClassifier model(kClasses);
  parameters(model).front().parameter.value().fill(std::numeric_limits<double>::quiet_NaN());
  const ImageSet set = tiny_images(kCount, kClasses);
  const std::string text = error_text([&] { evaluate(model, set, kTinyNormalisation, {}); });
  EXPECT_TRUE(text.starts_with("evaluate: the network's logits are not finite")) << text;
}

TEST(Evaluate, DoesNotDependOnTheBatchSize) {
  TinyClassifier model(kClasses);
  const ImageSet set = tiny_images(kCount, kClasses);
  for (const Dtype precision : {Dtype::float32, Dtype::bfloat16}) {
    const auto of = [&](std::int64_t batch) {
      return *evaluate(model, set, kTinyNormalisation, {.tta = true, .precision = precision, .batch_size = batch});
    };
    const Evaluation whole = of(500);
    for (const std::int64_t batch : {1, 4, 11}) {
      const Evaluation parts = of(batch);
      EXPECT_NEAR(parts.loss, whole.loss, 1e-6);
      EXPECT_EQ(parts.confusion, whole.confusion);
      EXPECT_EQ(parts.accuracy_tta, whole.accuracy_tta);
    }
  }
}

// Has no memory for more than three images.
class SmallMemory final : public TinyClassifier {
 public:
  using TinyClassifier::TinyClassifier;
  Tensor forward(const Tensor& images) override {
    if (images.size(0) > 3) throw cuda::OutOfMemory("full");
    return TinyClassifier::forward(images);
  }
};

TEST(Evaluate, TakesSmallerBatchesWhereMemoryEndsUnlessTheirSizeIsGiven) {
  SmallMemory model(kClasses);
  const ImageSet set = tiny_images(kCount, kClasses);
  const auto by = [&](std::int64_t batch) {
    return *evaluate(model, set, kTinyNormalisation, {.tta = true, .batch_size = batch});
  };
  EXPECT_EQ(by(0).loss, by(2).loss);
  EXPECT_EQ(by(0).confusion, by(2).confusion);
  EXPECT_THROW(by(4), cuda::OutOfMemory);
}

TEST(Evaluate, StopsAndRefuses) {
  TinyClassifier model(kClasses);
  const ImageSet set = tiny_images(kCount, kClasses);
  int asked = 0;
  EvaluateOptions options{.tta = true, .batch_size = 4, .stop = [&] { return ++asked == 9; }};
  EXPECT_FALSE(evaluate(model, set, kTinyNormalisation, options));
  EXPECT_EQ(asked, 9);  // six views of the first batch, three of the second
  EXPECT_EQ(error_text([&] { evaluate(model, tiny_images(3, 5), kTinyNormalisation, {}); }),
            "evaluate: the model has 7 classes, the data 5");
}

}  // namespace
}  // namespace dattn::test
