// 3x3 convolutions of bfloat16 images as products of bfloat16 tiles with float sums: implicit matrix products over
// frames of pixels (core/tile_block.h).
#pragma once

#include "layers/conv2d.h"

namespace dattn {

/// Whether this machine has tile instructions and the sizes are for them: 3x3 filters, stride 1, padding 1, one group.
bool conv2d_bfloat16_suits(const Tensor& images, const Tensor& w, const Conv2dOptions& options);

// The contracts of conv2d_forward, conv2d_backward_data and conv2d_backward_filter. Filters are rounded to bfloat16.
void conv2d_bfloat16_forward(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y);
void conv2d_bfloat16_backward_data(const Tensor& dy, const Tensor& w, Tensor& dx);
void conv2d_bfloat16_backward_filter(const Tensor& dy, const Tensor& x, Tensor& dw);

// The same with max pooling of 2x2 behind it, as in layers/winograd.h: maxima are of the float sums.
void conv2d_bfloat16_pool_forward(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y, Tensor& taps);
void conv2d_bfloat16_pool_backward_data(const Tensor& dy, const Tensor& taps, const Tensor& w, Tensor& dx);
void conv2d_bfloat16_pool_backward_filter(const Tensor& dy, const Tensor& taps, const Tensor& x, Tensor& dw);

}  // namespace dattn
