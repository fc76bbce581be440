// Layer normalisation of every row over its C channels, the last dimension (Ba et al., arXiv 1607.06450):
//   y = xhat w + b,   xhat = (x - mean) s,   s = 1 / sqrt(var + eps), with the row's mean and (biased) var.
// With g = dy w and means over the row:
//   dx = s (g - mean(g) - xhat mean(g xhat)),   db = sum of dy over rows,   dw = sum of dy xhat over rows.
#pragma once

#include "core/autograd.h"
#include "core/kernel.h"
#include "layers/module.h"

namespace dattn {

/// x [...,C] float32, float64 or bfloat16, weight and bias [C] of its exact type. Error where shapes or types do not go
/// together, or eps < 0. Backward keeps x alone and finds the statistics again: cheaper than the memory they
/// would take where rows are short.
Tensor layernorm(const Tensor& x, const Parameter& weight, const Parameter& bias, double eps = 1e-5);

struct LayerNorm {
  explicit LayerNorm(std::int64_t channels, double eps = 1e-5);

  double eps;
  Parameter weight, bias;  // [C]; ones and zeros at first

  Tensor operator()(const Tensor& x) const { return layernorm(x, weight, bias, eps); }
  void visit(Visitor& v);
};

extern Kernel<void(const Tensor& x, const Tensor& w, const Tensor& b, double eps, Tensor& y)> layernorm_forward;
/// Writes dx and adds to dw and db; each is left out where undefined.
extern Kernel<void(const Tensor& dy, const Tensor& x, const Tensor& w, double eps, Tensor& dx, Tensor& dw, Tensor& db)>
    layernorm_backward;

}  // namespace dattn
