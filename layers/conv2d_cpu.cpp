// CPU kernels of the convolution: rows of patches (im2col) of one image and group, and a matrix product.
#include <algorithm>

#include "core/gemm.h"
#include "core/parallel.h"
#include "layers/conv2d.h"
#include "layers/linear.h"

namespace dattn {

namespace {

// The sizes of one convolution, and the walk over its patches.
struct Sizes {
  std::int64_t N, H, W, C, O, Kh, Kw, Ho, Wo, G, Cg, Og, K;
  Conv2dOptions o;

  Sizes(const Tensor& x, const Tensor& w, const Tensor& y, const Conv2dOptions& options)
      : N(x.size(0)),
        H(x.size(1)),
        W(x.size(2)),
        C(x.size(3)),
        O(w.size(0)),
        Kh(w.size(1)),
        Kw(w.size(2)),
        Ho(y.size(1)),
        Wo(y.size(2)),
        G(options.groups),
        Cg(C / G),
        Og(O / G),
        K(Kh * Kw * Cg),
        o(options) {}

  // A 1x1 convolution is a linear layer on pixels.
  bool is_linear() const { return Kh == 1 && Kw == 1 && o.stride == 1 && o.padding == 0 && G == 1; }

  // f(patch, pixel) for each output pixel and tap: the places of the tap's channels in the patches [Ho*Wo,K] and in the
  // image; pixel is -1 in the padding.
  template <typename F>
  void walk(F&& f) const {
    for (std::int64_t i = 0; i < Ho * Wo; ++i) {
      for (std::int64_t k = 0; k < Kh * Kw; ++k) {
        const std::int64_t h = i / Wo * o.stride - o.padding + k / Kw * o.dilation;
        const std::int64_t w = i % Wo * o.stride - o.padding + k % Kw * o.dilation;
        f(i * K + k * Cg, h < 0 || h >= H || w < 0 || w >= W ? -1 : (h * W + w) * C);
      }
    }
  }
};

template <typename T>
void im2col(const Sizes& s, const T* x, T* patches) {
  s.walk([&](std::int64_t patch, std::int64_t pixel) {
    if (pixel < 0) {
      std::fill_n(patches + patch, s.Cg, T(0));
    } else {
      std::copy_n(x + pixel, s.Cg, patches + patch);
    }
  });
}

template <typename T>
void col2im(const Sizes& s, const T* patches, T* dx) {
  s.walk([&](std::int64_t patch, std::int64_t pixel) {
    for (std::int64_t c = 0; pixel >= 0 && c < s.Cg; ++c) dx[pixel + c] += patches[patch + c];
  });
}

void forward_cpu(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y) {
  const Sizes s(x, w, y, o);
  if (s.is_linear()) return linear_forward(x, w.view({s.O, s.C}), b, y);
  dispatch_float("conv2d", x.dtype(), [&]<typename T>() {
    parallel_for(s.N, 1, [&](std::int64_t n, std::int64_t) {
      Scratch<T> patches(static_cast<std::size_t>(s.Ho * s.Wo * s.K));
      T* out = y.data<T>() + n * s.Ho * s.Wo * s.O;
      for (std::int64_t i = 0; b && i < s.Ho * s.Wo; ++i) std::copy_n(b.data<T>(), s.O, out + i * s.O);
      for (std::int64_t g = 0; g < s.G; ++g) {
        im2col(s, x.data<T>() + n * s.H * s.W * s.C + g * s.Cg, patches.data());
        gemm_tile<T>(Trans::no, Trans::yes, s.Ho * s.Wo, s.Og, s.K, 1, patches.data(), s.K,
                     w.data<T>() + g * s.Og * s.K, s.K, b ? 1 : 0, out + g * s.Og, s.O);
      }
    });
  });
}

void backward_data_cpu(const Tensor& dy, const Tensor& w, const Conv2dOptions& o, Tensor& dx) {
  const Sizes s(dx, w, dy, o);
  if (s.is_linear()) return linear_backward_data(dy, w.view({s.O, s.C}), dx);
  dispatch_float("conv2d", dy.dtype(), [&]<typename T>() {
    parallel_for(s.N, 1, [&](std::int64_t n, std::int64_t) {
      Scratch<T> patches(static_cast<std::size_t>(s.Ho * s.Wo * s.K));
      T* image = dx.data<T>() + n * s.H * s.W * s.C;
      std::fill_n(image, s.H * s.W * s.C, T(0));
      for (std::int64_t g = 0; g < s.G; ++g) {
        gemm_tile<T>(Trans::no, Trans::no, s.Ho * s.Wo, s.K, s.Og, 1, dy.data<T>() + n * s.Ho * s.Wo * s.O + g * s.Og,
                     s.O, w.data<T>() + g * s.Og * s.K, s.K, 0, patches.data(), s.K);
        col2im(s, patches.data(), image + g * s.Cg);
      }
    });
  });
}

constexpr std::int64_t kParts = 16;  // partial sums of the filters' gradient, added in order

void backward_filter_cpu(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw) {
  const Sizes s(x, dw, dy, o);
  if (s.is_linear()) {
    Tensor matrix = dw.view({s.O, s.C});
    return linear_backward_weight(dy, x, matrix);
  }
  dispatch_float("conv2d", dy.dtype(), [&]<typename T>() {
    const std::int64_t part = std::max<std::int64_t>(1, (s.N + kParts - 1) / kParts), parts = tile_count(s.N, part);
    Scratch<T> sums(static_cast<std::size_t>(parts * s.O * s.K));
    parallel_for(s.N, part, [&](std::int64_t begin, std::int64_t end) {
      Scratch<T> patches(static_cast<std::size_t>(s.Ho * s.Wo * s.K));
      T* sum = sums.data() + begin / part * s.O * s.K;
      for (std::int64_t n = begin; n < end; ++n) {
        for (std::int64_t g = 0; g < s.G; ++g) {
          im2col(s, x.data<T>() + n * s.H * s.W * s.C + g * s.Cg, patches.data());
          gemm_tile<T>(Trans::yes, Trans::no, s.Og, s.K, s.Ho * s.Wo, 1,
                       dy.data<T>() + n * s.Ho * s.Wo * s.O + g * s.Og, s.O, patches.data(), s.K, n == begin ? 0 : 1,
                       sum + g * s.Og * s.K, s.K);
        }
      }
    });
    T* total = dw.data<T>();
    for (std::int64_t p = 0; p < parts; ++p) {
      for (std::int64_t i = 0; i < s.O * s.K; ++i) total[i] += sums[static_cast<std::size_t>(p * s.O * s.K + i)];
    }
  });
}

}  // namespace

constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Conv2dOptions&, Tensor&)> conv2d_forward{
    "conv2d_forward", forward_cpu};
constinit Kernel<void(const Tensor&, const Tensor&, const Conv2dOptions&, Tensor&)> conv2d_backward_data{
    "conv2d_backward_data", backward_data_cpu};
constinit Kernel<void(const Tensor&, const Tensor&, const Conv2dOptions&, Tensor&)> conv2d_backward_filter{
    "conv2d_backward_filter", backward_filter_cpu};

}  // namespace dattn
