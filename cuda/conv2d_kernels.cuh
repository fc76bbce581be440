// Convolutions as matrix products whose left side is gathered from an image (implicit GEMM): shapes, the gathering, and
// the three products that cuda/conv2d.cu launches.
#pragma once

#include "cuda/common.cuh"
#include "cuda/fast_divide.cuh"
#include "layers/conv2d.h"

namespace dattn::cuda {

/// How targets find their sources along both sides: tap k of target t meets source (t step + offset + k tap) / divisor
/// where that is whole and inside. Forward, targets are outputs and divisor is 1; for the data gradient they are
/// inputs.
struct ConvolutionTaps {
  int step, offset, tap, divisor;

  static ConvolutionTaps forward(const Conv2dOptions& o) {
    return {static_cast<int>(o.stride), static_cast<int>(-o.padding), static_cast<int>(o.dilation), 1};
  }
  static ConvolutionTaps backward(const Conv2dOptions& o) {
    return {1, static_cast<int>(o.padding), static_cast<int>(-o.dilation), static_cast<int>(o.stride)};
  }
};

/// Images in memory [N,H,W,groups*C]; C of a group is a multiple of a chunk for sources.
struct ConvolutionImages {
  int N, H, W, groups, C;

  __host__ __device__ int all_channels() const { return groups * C; }
  __host__ __device__ int pixels() const { return N * H * W; }
};

/// A source pixel, or none.
struct SourcePixel {
  std::int64_t index;
  bool inside;
};

/// What both kernels know of a convolution: target [N,Ht,Wt,..] gathers source [N,Hs,Ws,..] by Kh x Kw taps.
struct ConvolutionShape {
  ConvolutionImages source, target;
  ConvolutionTaps taps;
  int kernel_width, depth;  ///< depth = Kh Kw source.C: the length of a filter
  FastDivide by_channels, by_kernel_width;

  ConvolutionShape(const ConvolutionImages& s, const ConvolutionImages& t, const ConvolutionTaps& how, int Kh, int Kw)
      : source(s),
        target(t),
        taps(how),
        kernel_width(Kw),
        depth(Kh * Kw * s.C),
        by_channels(s.C),
        by_kernel_width(Kw) {}

  /// The source of a target's corner (n Hs, its row and column at tap 0) for the tap in row kh and column kw.
  __device__ __forceinline__ SourcePixel find(int image, int row, int column, int kh, int kw) const {
    int h = row + kh * taps.tap, w = column + kw * taps.tap;
    bool inside = h >= 0 && w >= 0;
    if (taps.divisor != 1) {
      inside = inside && h % taps.divisor == 0 && w % taps.divisor == 0;
      h /= taps.divisor, w /= taps.divisor;
    }
    inside = inside && h < source.H && w < source.W;
    return {static_cast<std::int64_t>(image + h) * source.W + w, inside};
  }
};

}  // namespace dattn::cuda
