// Two-dimensional convolution of NHWC images: y[n,i,j,o] = b[o] + sum over kh,kw,c of w[o,kh,kw,c] x[n, i s - p + kh d,
// j s - p + kw d, c], with stride s, padding p (zeros) and dilation d; in groups, each output sees its group's channels
// only.
#pragma once

#include "core/autograd.h"
#include "core/kernel.h"
#include "core/random.h"
#include "layers/module.h"

namespace dattn {

/// The same along height and width.
struct Conv2dOptions {
  std::int64_t stride = 1, padding = 0, dilation = 1, groups = 1;
};

/// Output size along one side: floor((size + 2 padding - dilation (kernel - 1) - 1) / stride) + 1.
std::int64_t conv2d_size(std::int64_t size, std::int64_t kernel, const Conv2dOptions& options);

/// x [N,H,W,C], weight [O,Kh,Kw,C/groups], bias [O] or absent; gives [N,Ho,Wo,O] of x's type. x is float32, float64 or
/// bfloat16, parameters of its exact type (float32 for bfloat16). Error where shapes or types do not go together,
/// groups do not divide channels, or a kernel is larger than the padded image.
Tensor conv2d(const Tensor& x, const Parameter& weight, const Parameter& bias = {}, const Conv2dOptions& options = {});

/// The errors of conv2d, for operations that convolve and do more.
void check_conv2d(const Tensor& x, const Parameter& weight, const Parameter& bias, const Conv2dOptions& options);

/// One depthwise filter bank on each of `groups` groups of channels: x [N,H,W,groups*C], weight [C,Kh,Kw,1], bias [C]
/// or absent; gives [N,Ho,Wo,groups*C]. The same as the depthwise conv2d (options.groups = C) of the groups as images
/// of their own, without moving them.
Tensor depthwise_conv2d_shared(const Tensor& x, const Parameter& weight, const Parameter& bias,
                               const Conv2dOptions& options, std::int64_t groups);

/// addend + depthwise conv2d(x), in one sweep over the output: `addend` has its shape.
Tensor depthwise_conv2d_add(const Tensor& addend, const Tensor& x, const Parameter& weight, const Parameter& bias,
                            const Conv2dOptions& options);

// Kernels for any groups; b may be undefined.
extern Kernel<void(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& options, Tensor& y)>
    conv2d_forward;
extern Kernel<void(const Tensor& dy, const Tensor& w, const Conv2dOptions& options, Tensor& dx)> conv2d_backward_data;
/// Adds to dw.
extern Kernel<void(const Tensor& dy, const Tensor& x, const Conv2dOptions& options, Tensor& dw)> conv2d_backward_filter;

// The same with one filter a channel: channel c of x goes through filter c mod w.size(0). options.groups is not read.
// `addend`, like y or undefined, is added.
extern Kernel<void(const Tensor& x, const Tensor& w, const Tensor& b, const Tensor& addend,
                   const Conv2dOptions& options, Tensor& y)>
    depthwise_conv2d_forward;
extern Kernel<void(const Tensor& dy, const Tensor& w, const Conv2dOptions& options, Tensor& dx)>
    depthwise_conv2d_backward_data;
/// Adds to dw.
extern Kernel<void(const Tensor& dy, const Tensor& x, const Conv2dOptions& options, Tensor& dw)>
    depthwise_conv2d_backward_filter;

/// Starts like PyTorch's: weight and bias uniform in +-1/sqrt(kernel^2 in/groups).
struct Conv2d {
  Parameter weight;  ///< [out, kernel, kernel, in/groups]
  Parameter bias;    ///< [out], or undefined
  Conv2dOptions options;

  Conv2d(std::int64_t in, std::int64_t out, std::int64_t kernel, const Conv2dOptions& options, bool with_bias,
         Random& random);
  Conv2d(Parameter w, Parameter b, const Conv2dOptions& o) : weight(std::move(w)), bias(std::move(b)), options(o) {}
  Tensor operator()(const Tensor& x) const { return conv2d(x, weight, bias, options); }
  void visit(Visitor& v);
};

}  // namespace dattn
