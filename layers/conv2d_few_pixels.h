// Convolution of few pixels, as in inference of one image: there, packing or transforming the filters would take longer
// than the products.
#pragma once

#include "layers/conv2d.h"

namespace dattn {

/// Whether it pays: depends on sizes alone. `target` is the shape of y.
bool few_pixels_suit(const Tensor& w, const Conv2dOptions& options, const Shape& target);

/// The contract of conv2d_forward.
void few_pixels_forward(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& options, Tensor& y);

}  // namespace dattn
