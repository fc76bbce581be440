// Convolution and max pooling of 2x2 in one operation: the map between them, four times as large as what is kept of it,
// is not in memory where the convolution is Winograd's (layers/winograd.h), and neither is its gradient.
#pragma once

#include "layers/conv2d.h"

namespace dattn {

/// max_pool2d(conv(x), 2): x [N,H,W,C] -> [N,floor(Ho/2),floor(Wo/2),O]. Errors: those of conv2d; Ho or Wo below 2.
Tensor conv2d_max_pool2(const Tensor& x, const Conv2d& conv);

/// y and `taps` [N,floor(Ho/2),floor(Wo/2),O]; taps, uint8, is where in its window the maximum was, as in max_pool2d.
extern Kernel<void(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& options, Tensor& y,
                   Tensor& taps)>
    conv2d_max_pool2_forward;
/// Writes dx and adds to dw; either may be undefined.
extern Kernel<void(const Tensor& dy, const Tensor& taps, const Tensor& x, const Tensor& w, const Conv2dOptions& options,
                   Tensor& dx, Tensor& dw)>
    conv2d_max_pool2_backward;

}  // namespace dattn
