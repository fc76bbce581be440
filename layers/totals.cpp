// Totals of an epoch: checks and the CPU kernel.
#include "layers/totals.h"

#include <algorithm>
#include <cmath>

namespace dattn {

namespace {

void add_to_totals_cpu(const Tensor& logits, const Tensor& labels, const Tensor& loss, double loss_factor,
                       const Tensor& step, Tensor& totals) {
  check_totals(logits, labels, loss, step, totals);
  const std::int64_t classes = logits.size(1);
  const float* row = logits.data<float>();
  auto* total = totals.data<double>();
  for (const std::int64_t label : labels.values<std::int64_t>()) {
    total[1] += std::max_element(row, row + classes) - row == label;
    row += classes;
  }
  const float value = *loss.data<float>();
  total[0] += loss_factor * static_cast<double>(value);
  if (!std::isfinite(value) && total[2] < 0) total[2] = static_cast<double>(*step.data<std::int64_t>());
}

}  // namespace

constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, double, const Tensor&, Tensor&)> add_to_totals{
    "add_to_totals", add_to_totals_cpu};

void check_totals(const Tensor& logits, const Tensor& labels, const Tensor& loss, const Tensor& step,
                  const Tensor& totals) {
  const bool batch = logits.rank() == 2 && logits.dtype() == Dtype::float32 && logits.size(1) > 0 &&
                     labels.shape() == Shape{logits.size(0)} && labels.dtype() == Dtype::int64;
  const bool numbers = loss.elements() == 1 && loss.dtype() == Dtype::float32 && step.elements() == 1 &&
                       step.dtype() == Dtype::int64 && totals.shape() == Shape{3} && totals.dtype() == Dtype::float64;
  if (!batch || !numbers) {
    fail(
        "add_to_totals: expected logits float32 [B,classes], labels int64 [B], loss float32 [], step int64 [] and "
        "totals float64 [3] ({}, {}, {}, {}, {})",
        describe("logits", logits), describe("labels", labels), describe("loss", loss), describe("step", step),
        describe("totals", totals));
  }
  const Device device = logits.device();
  check(labels.device() == device && loss.device() == device && step.device() == device && totals.device() == device,
        "add_to_totals: expected all on {}, like the logits", name(device));
}

}  // namespace dattn
