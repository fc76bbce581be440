// Evaluation.
#include "train/evaluate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "core/autograd.h"
#include "datasets/augment.h"

namespace dattn {

namespace {

// A view of every image: moved by `shift` pixels both ways, perhaps mirrored, and its weight in the averaged logits.
// The first view is the image itself.
struct View {
  int shift;
  bool mirrored;
  double weight;
};
constexpr std::array<View, 6> kViews = {{{0, false, 1. / 4},
                                         {0, true, 1. / 4},
                                         {-1, false, 1. / 8},
                                         {-1, true, 1. / 8},
                                         {1, false, 1. / 8},
                                         {1, true, 1. / 8}}};

// Logits of one view of images [begin, end).
Tensor view_logits(Classifier& model, const ImageSet& set, const Tensor& table, const View& view, std::int64_t begin,
                   std::int64_t end, Dtype precision) {
  const std::int64_t count = end - begin;
  Tensor parts = Tensor::zeros({count, 1, AugmentPlan::kColumns}, Dtype::int32);
  const Tensor weights = Tensor::full({count, 1}, 1);
  for (std::int64_t i = 0; i < count; ++i) {
    auto* row = parts.data<std::int32_t>() + i * AugmentPlan::kColumns;
    row[AugmentPlan::image] = static_cast<std::int32_t>(begin + i);
    row[AugmentPlan::shift_y] = row[AugmentPlan::shift_x] = view.shift;
    row[AugmentPlan::mirrored] = view.mirrored;
  }
  Tensor images = Tensor::empty({count, set.images.size(1), set.images.size(2), 3});  // [B,H,W,3]
  augment_forward(set.images, parts, weights, table, 0, images);
  return model.forward(images.to(precision));
}

// Cross entropy of one row of logits.
double row_loss(const float* logits, std::int64_t classes, std::int64_t label) {
  const double most = *std::max_element(logits, logits + classes);
  double sum = 0;
  for (std::int64_t c = 0; c < classes; ++c) sum += std::exp(logits[c] - most);
  return std::log(sum) + most - logits[label];
}

// How many classes come before the label, ties by index.
std::int64_t rank_of(const float* logits, std::int64_t classes, std::int64_t label) {
  std::int64_t rank = 0;
  for (std::int64_t c = 0; c < classes; ++c)
    rank += logits[c] > logits[label] || (logits[c] == logits[label] && c < label);
  return rank;
}

struct Sums {
  double loss = 0;
  std::int64_t first = 0, five = 0, first_tta = 0;
};

void add_batch(Evaluation& evaluation, Sums& sums, const Tensor& logits, const std::int64_t* labels) {
  const std::int64_t classes = logits.size(1);
  for (std::int64_t i = 0; i < logits.size(0); ++i) {
    const float* row = logits.data<float>() + i * classes;
    const std::int64_t rank = rank_of(row, classes, labels[i]);
    sums.loss += row_loss(row, classes, labels[i]);
    sums.first += rank == 0;
    sums.five += rank < 5;
    const auto prediction = std::max_element(row, row + classes) - row;
    ++evaluation.confusion[static_cast<std::size_t>(labels[i] * classes + prediction)];
  }
}

std::int64_t hits(const std::vector<double>& logits, std::int64_t classes, const std::int64_t* labels,
                  std::int64_t count) {
  std::int64_t right = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const double* row = logits.data() + i * classes;
    right += std::max_element(row, row + classes) - row == labels[i];
  }
  return right;
}

// Restores training mode, also when an Error leaves evaluate().
struct EvaluationMode {
  explicit EvaluationMode(Classifier& m) : model(m) { set_training(model, false); }
  ~EvaluationMode() { set_training(model, true); }
  Classifier& model;
};

}  // namespace

std::int64_t Evaluation::classes() const { return std::llround(std::sqrt(static_cast<double>(confusion.size()))); }

double Evaluation::class_accuracy(std::int64_t c) const {
  const auto row = confusion.begin() + c * classes();
  const std::int64_t all = std::accumulate(row, row + classes(), std::int64_t{0});
  return all == 0 ? 0 : static_cast<double>(row[c]) / static_cast<double>(all);
}

std::optional<Evaluation> evaluate(Classifier& model, const ImageSet& set, const Normalisation& normalisation,
                                   const EvaluateOptions& options) {
  NoGrad no_grad;
  EvaluationMode mode(model);
  const Tensor table = normalisation_table(normalisation);
  const std::int64_t classes = set.classes(), count = set.count();
  Evaluation evaluation;
  evaluation.images = count;
  evaluation.confusion.assign(static_cast<std::size_t>(classes * classes), 0);
  Sums sums;
  std::vector<double> averaged;
  for (std::int64_t begin = 0; begin < count; begin += options.batch_size) {
    const std::int64_t end = std::min(count, begin + options.batch_size);
    const std::int64_t* labels = set.labels.data<std::int64_t>() + begin;
    averaged.assign(static_cast<std::size_t>((end - begin) * classes), 0);
    for (const View& view : kViews) {
      if (options.stop && options.stop()) return std::nullopt;
      const bool plain = &view == &kViews.front();
      if (!plain && !options.tta) break;
      const Tensor logits = view_logits(model, set, table, view, begin, end, options.precision);
      check(logits.size(1) == classes, "evaluate: the model has {} classes, the data {}", logits.size(1), classes);
      if (plain) add_batch(evaluation, sums, logits, labels);
      for (std::size_t i = 0; i < averaged.size(); ++i)
        averaged[i] += view.weight * static_cast<double>(logits.data<float>()[i]);
    }
    if (options.tta) sums.first_tta += hits(averaged, classes, labels, end - begin);
  }
  const auto n = static_cast<double>(count);
  evaluation.loss = sums.loss / n;
  evaluation.accuracy = static_cast<double>(sums.first) / n;
  evaluation.top5 = static_cast<double>(sums.five) / n;
  if (options.tta) evaluation.accuracy_tta = static_cast<double>(sums.first_tta) / n;
  return evaluation;
}

}  // namespace dattn
