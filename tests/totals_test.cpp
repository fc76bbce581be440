// Totals of an epoch: sums, ties, lost losses and errors. The device's are in cuda/rows_test.cpp.
#include "layers/totals.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "error_text.h"

namespace dattn {
namespace {

using test::error_text;

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

Tensor labels_of(const std::vector<std::int64_t>& labels) {
  return Tensor::from({static_cast<std::int64_t>(labels.size())}, labels);
}
Tensor fresh() { return Tensor::from<double>({3}, {0, 0, -1}); }
std::vector<double> values(const Tensor& totals) { return {totals.at(0), totals.at(1), totals.at(2)}; }

TEST(Totals, AddLossesAndCorrectPredictions) {
  const Tensor logits = Tensor::from<float>({3, 3}, {1, 2, 0, 5, 5, 4, -1, -2, -1});
  Tensor totals = fresh();
  add_to_totals(logits, labels_of({1, 0, 2}), Tensor::scalar(1.5f), 3, Tensor::scalar<std::int64_t>(7), totals);
  EXPECT_EQ(values(totals), (std::vector<double>{4.5, 2, -1}));  // of equal logits the first counts
  add_to_totals(logits, labels_of({1, 0, 0}), Tensor::scalar(0.25f), 1, Tensor::scalar<std::int64_t>(8), totals);
  EXPECT_EQ(values(totals), (std::vector<double>{4.75, 5, -1}));
}

TEST(Totals, NoteTheFirstStepWhoseLossIsLost) {
  const Tensor logits = Tensor::from<float>({1, 2}, {kNan, 1});
  Tensor totals = fresh();
  const auto add = [&](float loss, std::int64_t step) {
    add_to_totals(logits, labels_of({0}), Tensor::scalar(loss), 1, Tensor::scalar(step), totals);
    return totals.at(2);
  };
  EXPECT_EQ(add(1, 4), -1);
  EXPECT_EQ(add(kInfinity, 5), 5);
  EXPECT_EQ(add(kNan, 6), 5);
  EXPECT_EQ(add(1, 7), 5);
  EXPECT_EQ(totals.at(1), 4);  // as std::max_element: nothing is larger than a NaN that comes first
}

TEST(Totals, Errors) {
  Tensor totals = fresh();
  const auto error = [&](const Tensor& logits, const Tensor& labels) {
    return error_text(
        [&] { add_to_totals(logits, labels, Tensor::scalar(1.0f), 1, Tensor::scalar<std::int64_t>(0), totals); });
  };
  EXPECT_EQ(error(Tensor::zeros({2, 3}), labels_of({1})),
            "add_to_totals: expected logits float32 [B,classes], labels int64 [B], loss float32 [], step int64 [] and "
            "totals float64 [3] (logits [2,3] float32, labels [1] int64, loss [] float32, step [] int64, totals [3] "
            "float64)");
  const std::string wrong = "add_to_totals: expected logits float32 [B,classes]";
  EXPECT_EQ(error(Tensor::zeros({1, 3}, Dtype::float64), labels_of({1})).substr(0, wrong.size()), wrong);
  EXPECT_EQ(error(Tensor::zeros({1, 3}), Tensor::zeros({1})).substr(0, wrong.size()), wrong);
}

}  // namespace
}  // namespace dattn
