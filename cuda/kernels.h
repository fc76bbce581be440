// The device's functions for the kernel slots, by subject. cuda/enable.cu puts each into its slot; what a function
// computes is said where the slot is declared.
#pragma once

#include "core/ops.h"
#include "core/tensor.h"
#include "layers/activation.h"

namespace dattn::cuda {

// --- elements.cu: core/elements.h ---
void fill_elements_cuda(Tensor& x, double value);
void convert_elements_cuda(const Tensor& from, Tensor& to);

}  // namespace dattn::cuda
