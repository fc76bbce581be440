// Linear layers in bfloat16 by tile blocks (core/tile_block.h). The weights are rounded to bfloat16 on the way; sums
// are float32.
#pragma once

#include "core/tensor.h"

namespace dattn {

/// Whether x [...,k] times a matrix goes by tile blocks: bfloat16, whole steps of k, rows enough to pay for packing.
bool linear_bfloat16_suits(const Tensor& x);
/// The same for the weight gradient from dy [...,out] and x [...,in].
bool linear_weight_bfloat16_suits(const Tensor& dy, const Tensor& x);

// The contracts of linear_forward, linear_backward_data and linear_backward_weight.
void linear_bfloat16_forward(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y);
void linear_bfloat16_backward_data(const Tensor& dy, const Tensor& w, Tensor& dx);
void linear_bfloat16_backward_weight(const Tensor& dy, const Tensor& x, Tensor& dw);

}  // namespace dattn
