// Slots behind Tensor::fill and Tensor::copy_from.
#pragma once

#include "core/kernel.h"

namespace dattn {

/// x[i] = value.
extern Kernel<void(Tensor& x, double value)> fill_elements;
/// to[i] = from[i] in another type: the same number of elements, on one device. To bfloat16 and from it through float.
extern Kernel<void(const Tensor& from, Tensor& to)> convert_elements;

}  // namespace dattn
