// Evaluation.
#include "train/evaluate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "core/autograd.h"
#include "cuda/out_of_memory.h"
#include "datasets/augment.h"
#include "train/watch.h"

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

constexpr auto kViewCount = static_cast<std::int64_t>(kViews.size());

// Where a model computes: where its parameters lie.
Device device_of(Classifier& model) {
  const auto all = parameters(model);
  return all.empty() ? Device::cpu : all.front().parameter.value().device();
}

// Images at a time: few enough for the processor's caches, and enough to fill a GPU.
std::int64_t own_batch_size(Device device) { return device == Device::cpu ? 500 : 2000; }

// What augment_forward makes the views of a batch from, on the model's device.
struct ViewPlans {
  Tensor parts;    // int32 [views, batch, 1, kColumns]
  Tensor weights;  // float32 [batch, 1]: ones
  Tensor table;    // float32 [3, 256]

  ViewPlans(std::int64_t batch, const Normalisation& normalisation, Device device)
      : parts(Tensor::zeros({kViewCount, batch, 1, AugmentPlan::kColumns}, Dtype::int32)),
        weights(Tensor::full({batch, 1}, 1).to(device)),
        table(normalisation_table(normalisation).to(device)) {
    auto* row = parts.data<std::int32_t>();
    for (const View& view : kViews) {
      for (std::int64_t i = 0; i < batch; ++i, row += AugmentPlan::kColumns) {
        row[AugmentPlan::image] = static_cast<std::int32_t>(i);
        row[AugmentPlan::shift_y] = row[AugmentPlan::shift_x] = view.shift;
        row[AugmentPlan::mirrored] = view.mirrored;
      }
    }
    parts = parts.to(device);
  }

  // One view of images uint8 [B,H,W,3], B up to the batch: [B,H,W,3] in the type of activations.
  Tensor see(const Tensor& images, std::int64_t view, Dtype precision) const {
    const std::int64_t count = images.size(0);
    const Tensor here = parts.slice(view, view + 1).view({parts.size(1), 1, AugmentPlan::kColumns}).slice(0, count);
    Tensor seen = Tensor::empty(images.shape(), precision, images.device());
    augment_forward(images, here, weights.slice(0, count), table, 0, seen);
    return seen;
  }
};

// Logits float32 [views, B, classes] of a batch, on the CPU: what a device computes comes back at once, at the end.
// Nothing where options.stop says yes.
Tensor batch_logits(Classifier& model, const ViewPlans& plans, const Tensor& images, std::int64_t classes,
                    const EvaluateOptions& options) {
  const std::int64_t views = options.tta ? kViewCount : 1;
  Tensor logits = Tensor::empty({views, images.size(0), classes}, Dtype::float32, images.device());
  for (std::int64_t view = 0; view < views; ++view) {
    if (options.stop && options.stop()) return {};
    const Tensor y = model.forward(plans.see(images, view, options.precision));
    check(y.size(1) == classes, "evaluate: the model has {} classes, the data {}", y.size(1), classes);
    logits.slice(view, view + 1).copy_from(y);
  }
  return logits.to(Device::cpu);
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

// Counts the first view of logits [views, B, classes].
void add_batch(Evaluation& evaluation, Sums& sums, const Tensor& logits, const std::int64_t* labels) {
  const std::int64_t classes = logits.size(2);
  for (std::int64_t i = 0; i < logits.size(1); ++i) {
    const float* row = logits.data<float>() + i * classes;
    const std::int64_t rank = rank_of(row, classes, labels[i]);
    sums.loss += row_loss(row, classes, labels[i]);
    sums.first += rank == 0;
    sums.five += rank < 5;
    const auto prediction = std::max_element(row, row + classes) - row;
    ++evaluation.confusion[static_cast<std::size_t>(labels[i] * classes + prediction)];
  }
}

// How many images the mean of all views of logits [views, B, classes] has right.
std::int64_t hits(const Tensor& logits, const std::int64_t* labels) {
  const std::int64_t count = logits.size(1), classes = logits.size(2);
  std::vector<double> mean(static_cast<std::size_t>(classes));
  std::int64_t right = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    std::fill(mean.begin(), mean.end(), 0);
    const float* row = logits.data<float>() + i * classes;
    for (const View& view : kViews) {
      for (std::size_t c = 0; c < mean.size(); ++c) mean[c] += view.weight * static_cast<double>(row[c]);
      row += count * classes;
    }
    right += std::max_element(mean.begin(), mean.end()) - mean.begin() == labels[i];
  }
  return right;
}

// Evaluation by batches of this size.
std::optional<Evaluation> evaluate_by(std::int64_t batch, Classifier& model, const ImageSet& set,
                                      const Normalisation& normalisation, const EvaluateOptions& options) {
  const Device device = device_of(model);
  const std::int64_t classes = set.classes(), count = set.count();
  const ViewPlans plans(batch, normalisation, device);
  Evaluation evaluation;
  evaluation.images = count;
  evaluation.confusion.assign(static_cast<std::size_t>(classes * classes), 0);
  Sums sums;
  for (std::int64_t begin = 0; begin < count; begin += batch) {
    const std::int64_t end = std::min(count, begin + batch);
    const Tensor images = set.images.slice(begin, end).to(device);
    const Tensor logits = batch_logits(model, plans, images, classes, options);
    if (!logits) return std::nullopt;
    check(std::isfinite(largest_magnitude(logits)),
          "evaluate: the network's logits are not finite\nhint: its weights have grown too large; train with a smaller "
          "--lr-scale");
    const std::int64_t* labels = set.labels.data<std::int64_t>() + begin;
    add_batch(evaluation, sums, logits, labels);
    if (options.tta) sums.first_tta += hits(logits, labels);
  }
  const auto n = static_cast<double>(count);
  evaluation.loss = sums.loss / n;
  evaluation.accuracy = static_cast<double>(sums.first) / n;
  evaluation.top5 = static_cast<double>(sums.five) / n;
  if (options.tta) evaluation.accuracy_tta = static_cast<double>(sums.first_tta) / n;
  return evaluation;
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
  const bool given = options.batch_size > 0;
  std::int64_t batch = std::min(set.count(), given ? options.batch_size : own_batch_size(device_of(model)));
  for (;; batch /= 2) {
    try {
      return evaluate_by(batch, model, set, normalisation, options);
    } catch (const cuda::OutOfMemory&) {
      if (given || batch <= 1) throw;
    }
  }
}

}  // namespace dattn
