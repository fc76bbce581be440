// Bilinear sampling of images at given points: y = sum over the four pixels around a point of (1 - |dy|)(1 - |dx|)
// x[pixel].
#pragma once

#include "core/autograd.h"
#include "core/kernel.h"

namespace dattn {

/// What lies outside of an image: zeros, or its nearest pixel (a point is moved to the border, and its gradient there
/// is zero).
enum class Padding : unsigned char { zeros, border };

/// Samples x [N,H,W,C] at grid [N,Ho,Wo,2], which holds (x, y) on [-1, 1]; y is [N,Ho,Wo,C]. With `align_corners` -1
/// and 1 are the centres of the first and last pixels, else their outer edges. The same as PyTorch's grid_sample,
/// except for points that are not finite: an infinite one is far outside, and one that is not a number gives a sample
/// that is not one, so that it shows. The grid has x's exact type; Error for other types or shapes, and for images
/// without pixels.
Tensor grid_sample(const Tensor& x, const Tensor& grid, Padding padding = Padding::zeros, bool align_corners = false);

/// How the kernels read points.
enum class PointOrder : unsigned char { xy, yx };
struct GridSampleOptions {
  Padding padding = Padding::zeros;
  bool align_corners = false;
  PointOrder order = PointOrder::xy;
};

/// The kernels take G groups of channels, each with points of its own: points [N,K,G,2], y [N,K,C] under any shape of
/// as many elements, channel c belonging to group c / (C/G).
extern Kernel<void(const Tensor& x, const Tensor& points, const GridSampleOptions& options, Tensor& y)>
    grid_sample_forward;
/// dx, all of it written.
extern Kernel<void(const Tensor& dy, const Tensor& points, const GridSampleOptions& options, Tensor& dx)>
    grid_sample_backward_x;
/// Added to dpoints, which may have other gradients already.
extern Kernel<void(const Tensor& dy, const Tensor& x, const Tensor& points, const GridSampleOptions& options,
                   Tensor& dpoints)>
    grid_sample_backward_points;

}  // namespace dattn
