// Group normalisation of every image over its pixels and the C/G channels of a group (Wu and He, arXiv 1803.08494):
//   y = xhat w + b,   xhat = (x - mean) s,   s = 1 / sqrt(var + eps), with the group's mean and (biased) var over R = H
//   W C/G values.
// With g = dy w and means over the group:
//   dx = s (g - mean(g) - xhat mean(g xhat)),   db = sum of dy over images and pixels,   dw = sum of dy xhat over them.
#pragma once

#include "core/autograd.h"
#include "core/kernel.h"
#include "layers/module.h"

namespace dattn {

/// x [N,...,C] float32, float64 or bfloat16, weight and bias [C] of its exact type. Error where shapes or types do not
/// go together, `groups` does not divide C, images have no pixels, or eps < 0.
Tensor groupnorm(const Tensor& x, std::int64_t groups, const Parameter& weight, const Parameter& bias,
                 double eps = 1e-5);

struct GroupNorm {
  GroupNorm(std::int64_t groups, std::int64_t channels, double eps = 1e-5);

  std::int64_t groups;
  double eps;
  Parameter weight, bias;  // [C]; ones and zeros at first

  Tensor operator()(const Tensor& x) const { return groupnorm(x, groups, weight, bias, eps); }
  void visit(Visitor& v);
};

/// Also gives mean and s [N,G], which fix the number of groups.
extern Kernel<void(const Tensor& x, const Tensor& w, const Tensor& b, double eps, Tensor& y, Tensor& mean, Tensor& s)>
    groupnorm_forward;
/// Writes dx and adds to dw and db; each is left out where undefined.
extern Kernel<void(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& mean, const Tensor& s, Tensor& dx,
                   Tensor& dw, Tensor& db)>
    groupnorm_backward;

}  // namespace dattn
