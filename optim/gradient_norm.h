// The norm of gradients, and clipping by it.
#pragma once

#include "core/flat_parameters.h"
#include "core/kernel.h"

namespace dattn {

/// Square root of the sum of squares, summed in double: finite for all finite float32 elements, and NaN or infinite
/// where one element is.
double norm(const Tensor& x);

/// The norm of all gradients together, before clipping. Where it is finite and above `max_norm`, gradients are
/// multiplied by max_norm / (norm + 1e-6), like PyTorch's clip_grad_norm_; otherwise they are left as they are.
double clip_gradient_norm(FlatParameters& parameters, double max_norm);

/// sum [] float64 = sum of squares of x.
extern Kernel<void(const Tensor& x, Tensor& sum)> sum_of_squares;

}  // namespace dattn
