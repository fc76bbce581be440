// Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", 2016):
// 36 multiplications for 16 outputs of a 3x3 convolution in place of 144. In float32, for kernels of 3x3 with stride 1,
// dilation 1 and one group. A square is the paper's tile (4x4 outputs of 6x6 inputs), a place one of its 36 elements in
// the transform domain.
#pragma once

#include "layers/conv2d.h"

namespace dattn {

/// From this many images on, squares at the far borders have 3x3, 2x2 and oblong outputs where 4x4 reach beyond the
/// map.
inline constexpr std::int64_t kMixedSquareImages = 24;

/// Whether the transforms pay: depends on types and sizes alone. `source` and `target` are the shapes of x and y, or of
/// dy and dx for the data gradient.
bool winograd_suits(const Tensor& w, const Conv2dOptions& options, const Shape& source, const Shape& target);

// The contracts of conv2d_forward, conv2d_backward_data and conv2d_backward_filter. Errors are some 10 times those of
// the direct sums: about 1e-6 of the largest value.
void winograd_forward(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& options, Tensor& y);
void winograd_backward_data(const Tensor& dy, const Tensor& w, const Conv2dOptions& options, Tensor& dx);
void winograd_backward_filter(const Tensor& dy, const Tensor& x, const Conv2dOptions& options, Tensor& dw);

// The same with padding 1 and max pooling of 2x2 behind it, whose input never is in memory: y and dy [N,H/2,W/2,O], and
// taps like them, of uint8, where in its window each maximum was.
void winograd_pool_forward(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y, Tensor& taps);
void winograd_pool_backward_data(const Tensor& dy, const Tensor& taps, const Tensor& w, Tensor& dx);
void winograd_pool_backward_filter(const Tensor& dy, const Tensor& taps, const Tensor& x, Tensor& dw);

}  // namespace dattn
