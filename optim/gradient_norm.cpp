// The norm of gradients, and clipping by it.
#include "optim/gradient_norm.h"

#include <cmath>

#include "core/ops.h"

namespace dattn {

double norm(const Tensor& x) {
  Tensor sum = Tensor::empty({}, Dtype::float64, x.device());
  sum_of_squares(x, sum);
  return std::sqrt(sum.item());
}

double clip_gradient_norm(FlatParameters& parameters, double max_norm) {
  check(max_norm > 0, "clip_gradient_norm: the largest norm is expected above 0, got {}", max_norm);
  Tensor grads = parameters.grads();
  const double before = norm(grads);
  if (std::isfinite(before) && before > max_norm) scale_forward(grads, max_norm / (before + 1e-6), grads);
  return before;
}

}  // namespace dattn
