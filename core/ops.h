// Basic operations on tensors, each with its gradient. Float32 and float64.
#pragma once

#include <span>

#include "core/autograd.h"
#include "core/kernel.h"

namespace dattn {

/// y = a + b, same shapes. dL/da = dL/db = dL/dy.
Tensor add(const Tensor& a, const Tensor& b);
extern Kernel<void(const Tensor& a, const Tensor& b, Tensor& y)> add_forward;

/// The same elements, in the same order, under another shape; one size may be -1 and follows from the others.
Tensor reshape(const Tensor& x, const Shape& shape);

}  // namespace dattn
