// Batch normalisation of every channel over all its values (Ioffe and Szegedy, arXiv 1502.03167):
//   y = xhat w + b,   xhat = (x - mean) / sqrt(var + eps).
// In training, mean and (biased) var are those of the batch, R values a channel, and with s = 1 / sqrt(var + eps):
//   db = sum dy,   dw = sum dy xhat,   dx = w s (dy - db / R - xhat dw / R).
// In evaluation they are the running statistics, which do not depend on x, so dx = w s dy.
#pragma once

#include "core/autograd.h"
#include "core/kernel.h"
#include "layers/module.h"

namespace dattn {

struct BatchNormOptions {
  double eps = 1e-5;
  double momentum = 0.1;      ///< weight of the new value in the running statistics, as in PyTorch
  bool frozen_scale = false;  ///< the weight stays 1: saved, but never trained
};

/// BatchNorm over images [N,H,W,C] or rows [rows,C], with PyTorch's names. Parameters weight and bias [C]; buffers
/// running_mean and running_var [C], and num_batches_tracked, an int64 scalar.
struct BatchNorm2d {
  explicit BatchNorm2d(std::int64_t channels, const BatchNormOptions& options = {});

  BatchNormOptions options;
  Parameter weight, bias;
  Tensor running_mean, running_var, num_batches_tracked;
  bool training = true;

  /// In training also updates the running statistics; their variance is the unbiased one, over R - 1. Errors: other
  /// than C channels, a type whose exact type is not the parameters', and in training fewer than 2 values a channel.
  Tensor operator()(const Tensor& x);
  /// Mean and variance [C] that x is normalised by, for operations that use them otherwise; checks and updates as
  /// above.
  struct Moments {
    Tensor mean, var;
  };
  Moments moments(const Tensor& x);
  void visit(Visitor& v);
};

/// mean, var [C] of x [...,C]; the variance is the biased one. Accurate where the mean is large beside the deviation.
extern Kernel<void(const Tensor& x, Tensor& mean, Tensor& var)> batchnorm_statistics;
/// Moves the running statistics towards mean and var, of `rows` values a channel, and counts one batch.
extern Kernel<void(const Tensor& mean, const Tensor& var, std::int64_t rows, double momentum, Tensor& running_mean,
                   Tensor& running_var, Tensor& num_batches_tracked)>
    batchnorm_update;
extern Kernel<void(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w, const Tensor& b, double eps,
                   Tensor& y)>
    batchnorm_forward;
/// sum_dy [C] = sum dy; sum_dy_xhat [C] = sum dy xhat, left out where undefined.
extern Kernel<void(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var, double eps, Tensor& sum_dy,
                   Tensor& sum_dy_xhat)>
    batchnorm_backward_sums;
/// dx of training, from the sums above.
extern Kernel<void(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w,
                   double eps, const Tensor& sum_dy, const Tensor& sum_dy_xhat, Tensor& dx)>
    batchnorm_backward;
/// dx of evaluation.
extern Kernel<void(const Tensor& dy, const Tensor& var, const Tensor& w, double eps, Tensor& dx)>
    batchnorm_backward_fixed;

}  // namespace dattn
