// Evaluation of a classifier on a set of images, plain and with test-time augmentation.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "datasets/images.h"
#include "train/models.h"

namespace dattn {

struct Evaluation {
  std::int64_t images = 0;
  double loss = 0;      ///< mean cross entropy, without smoothing
  double accuracy = 0;  ///< top-1, 0 to 1
  double top5 = 0;
  std::optional<double> accuracy_tta;   ///< of logits averaged over six views, as airbench94 (arXiv 2404.00498) does
  std::vector<std::int64_t> confusion;  ///< [classes, classes]: row = true class, column = prediction
  /// Accuracy on the images of one class.
  double class_accuracy(std::int64_t c) const;
  std::int64_t classes() const;
};

struct EvaluateOptions {
  bool tta = false;                  ///< mirror images and one-pixel shifts as well: six passes in place of one
  Dtype precision = Dtype::float32;  ///< of activations
  std::int64_t batch_size =
      0;  ///< 0: what suits the device and its memory; the result depends on it by roundings alone
  std::function<bool()> stop{};  ///< asked before each pass over a batch; evaluation gives nothing once it says yes
};

/// Computes where the model's parameters lie; the images may lie there too, or on the CPU. Puts the model into
/// evaluation mode for the time of the call and back into training mode after it. Error where the set has
/// other classes than the model, and where a logit is not finite. The labels lie on the CPU.
std::optional<Evaluation> evaluate(Classifier& model, const ImageSet& set, const Normalisation& normalisation,
                                   const EvaluateOptions& options);

}  // namespace dattn
