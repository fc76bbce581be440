// Linear layer: y = x W^T + b over the last dimension.
#pragma once

#include "core/autograd.h"
#include "core/kernel.h"
#include "core/random.h"
#include "layers/module.h"

namespace dattn {

/// x [..., in], weight [out, in], bias [out] or absent; gives [..., out] of x's type. x is float32, float64 or
/// bfloat16, parameters of its exact type (float32 for bfloat16). Error where shapes or types do not go together.
/// Backward: dx = dy W, dW += dy^T x, db += column sums of dy.
Tensor linear(const Tensor& x, const Parameter& weight, const Parameter& bias = {});

/// The filters [O,1,1,I] of a 1x1 convolution, or a matrix, as the matrix [O,I] that they are. Shares their elements.
Tensor as_matrix(const Tensor& filters);

extern Kernel<void(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y)>
    linear_forward;  ///< b may be undefined
extern Kernel<void(const Tensor& dy, const Tensor& w, Tensor& dx)> linear_backward_data;
extern Kernel<void(const Tensor& dy, const Tensor& x, Tensor& dw)> linear_backward_weight;  ///< adds to dw
/// db [C] += sums over the rows of dy read as [rows, C].
extern Kernel<void(const Tensor& dy, Tensor& db)> bias_backward;

/// Starts like PyTorch's: weight and bias uniform in +-1/sqrt(in).
struct Linear {
  Parameter weight;  ///< [out, in]
  Parameter bias;    ///< [out], or undefined

  Linear(std::int64_t in, std::int64_t out, bool with_bias, Random& random);
  Tensor operator()(const Tensor& x) const { return linear(x, weight, bias); }
  void visit(Visitor& v);
};

}  // namespace dattn
