// The sums that steps leave on the device, between the device and the host.
#pragma once

#include "layers/totals.h"
#include "train/steps.h"

namespace dattn {

/// Loss, correct predictions and the first step that lost its numbers, in one small tensor.
class StepTotals {
 public:
  explicit StepTotals(Device device) : totals_(Tensor::empty({3}, Dtype::float64, device)) { set({}); }

  /// After a step whose loss is reduced so; `step` is int64 [].
  void add(const Tensor& logits, const Tensor& labels, const Tensor& loss, Reduction reduction, const Tensor& step) {
    const double images = reduction == Reduction::sum ? 1 : static_cast<double>(labels.elements());
    add_to_totals(logits, labels, loss, images, step, totals_);
  }
  void set(const StepSums& sums) {
    totals_.copy_from(Tensor::from<double>({3}, {sums.loss, static_cast<double>(sums.correct), -1}));
  }
  /// Waits for the device. Throws NonFiniteLoss where a step has lost its loss.
  StepSums get() const {
    const Tensor here = totals_.to(Device::cpu);
    if (here.at(2) >= 0) throw NonFiniteLoss(static_cast<std::int64_t>(here.at(2)), here.at(0), {});
    return {here.at(0), static_cast<std::int64_t>(here.at(1))};
  }

 private:
  Tensor totals_;  // float64: sum of the loss over images, correct predictions, step of the first lost loss or -1
};

}  // namespace dattn
