// BatchNorm and GELU (erf) in one operation, which saves the map between them and two sweeps over it:
//   y = gelu(z),   z = xhat w + b,   xhat = (x - mean) s,   s = 1 / sqrt(var + eps).
// Backward makes z again: with dz = dy gelu'(z), db = sum dz, dw = sum dz xhat, dx is BatchNorm's from dz. In
// evaluation the statistics do not depend on x, so dx = w s dz.
#pragma once

#include "layers/batchnorm.h"

namespace dattn {

/// gelu(norm(x)), with the shapes, updates and errors of BatchNorm2d. Keeps x alone for backward.
Tensor batchnorm_gelu(const Tensor& x, BatchNorm2d& norm);

extern Kernel<void(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w, const Tensor& b, double eps,
                   Tensor& y)>
    batchnorm_gelu_forward;
/// sum_dz, sum_dz_xhat [C] = sum dz, sum dz xhat.
extern Kernel<void(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w,
                   const Tensor& b, double eps, Tensor& sum_dz, Tensor& sum_dz_xhat)>
    batchnorm_gelu_backward_sums;
/// dx of training from the sums above; of evaluation where they are undefined.
extern Kernel<void(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w,
                   const Tensor& b, double eps, const Tensor& sum_dz, const Tensor& sum_dz_xhat, Tensor& dx)>
    batchnorm_gelu_backward;

}  // namespace dattn
