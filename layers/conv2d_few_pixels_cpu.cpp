// CPU kernel of the convolution of few pixels: the patches that filters meet are copied side by side, a row [Kh,Kw,C]
// for each pixel, and multiplied with the filters as they lie.
#include "layers/conv2d_few_pixels.h"

#include <algorithm>

#include "core/gemm.h"
#include "core/memory.h"

namespace dattn {

namespace {

// The patch of output pixel (i, j) of one image x [H,W,C]; zeros where it reaches into the padding.
template <typename T>
void copy_patch(const T* x, const Tensor& images, const Tensor& w, const Conv2dOptions& o, std::int64_t i,
                std::int64_t j, T* patch) {
  const std::int64_t H = images.size(1), W = images.size(2), C = images.size(3);
  for (std::int64_t kh = 0; kh < w.size(1); ++kh) {
    for (std::int64_t kw = 0; kw < w.size(2); ++kw, patch += C) {
      const std::int64_t h = i * o.stride - o.padding + kh * o.dilation, v = j * o.stride - o.padding + kw * o.dilation;
      if (h >= 0 && h < H && v >= 0 && v < W) {
        std::copy_n(x + (h * W + v) * C, C, patch);
      } else {
        std::fill_n(patch, C, T(0));
      }
    }
  }
}

template <typename T>
void forward(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y) {
  const std::int64_t pixels = y.shape().rows(), O = y.size(3), length = w.elements() / O;
  const std::int64_t image = x.elements() / x.size(0), Ho = y.size(1), Wo = y.size(2);
  Scratch<T> patches(static_cast<std::size_t>(pixels * length));
  for (std::int64_t p = 0; p < pixels; ++p) {
    copy_patch(x.data<T>() + p / (Ho * Wo) * image, x, w, o, p / Wo % Ho, p % Wo, patches.data() + p * length);
  }
  T* py = y.data<T>();
  for (std::int64_t p = 0; b && p < pixels; ++p) std::copy_n(b.data<T>(), O, py + p * O);
  gemm<T>(Trans::no, Trans::yes, pixels, O, length, 1, patches.data(), length, w.data<T>(), length, b ? 1 : 0, py, O);
}

}  // namespace

bool few_pixels_suit(const Tensor& w, const Conv2dOptions& o, const Shape& target) {
  constexpr std::int64_t kMostPixels = 64, kLeastWeights = 16384;
  return o.groups == 1 && target.rows() <= kMostPixels && target.elements() > 0 && w.elements() >= kLeastWeights;
}

void few_pixels_forward(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y) {
  dispatch_float("conv2d", x.dtype(), [&]<typename T>() { forward<T>(x, w, b, o, y); });
}

}  // namespace dattn
