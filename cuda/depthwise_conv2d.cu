// Depthwise convolution: device twins of layers/depthwise_conv2d_cpu.cpp. One kernel gathers outputs and gradients of
// inputs alike; the gradient of the filters is a sum of columns, one for each tap and channel.
#include "cuda/channel_sweeps.cuh"
#include "cuda/fast_divide.cuh"
#include "cuda/kernels.h"
#include "cuda/pixel_rows.cuh"
#include "cuda/sums.cuh"
#include "layers/conv2d.h"

namespace dattn::cuda {

namespace {

// Biases [R], or zeros, and filters [R,Kh,Kw,1] as [1 + Kh*Kw, C], channel c being filter c mod R; flipped for the data
// gradient.
struct ExpandFilters {
  const float *w, *b;
  int R, taps, C;
  bool flipped;
  float* expanded;
  __device__ void operator()(std::int64_t i) const {
    const int at = static_cast<int>(i), tap = at / C - 1, r = (at - (tap + 1) * C) % R;
    if (tap < 0) {
      expanded[i] = b != nullptr ? b[r] : 0.0f;
    } else {
      expanded[i] = w[r * taps + (flipped ? taps - 1 - tap : tap)];
    }
  }
};

// Which place of the source a tap meets, along one side (layers/conv2d_taps.h); -1 where none.
struct Side {
  int targets, sources, kernel, stride, padding, dilation;
  bool gradient;

  __device__ int place(int target, int k) const {
    int at = target * stride - padding + k * dilation;
    if (gradient) {
      at = target + padding - (kernel - 1 - k) * dilation;
      if (stride != 1) {
        if (at % stride != 0) return -1;
        at /= stride;
      }
    }
    return at >= 0 && at < sources ? at : -1;
  }
};

// V channels of one target pixel: bias + addend + the taps that meet it.
template <typename S, typename A, int V>
struct Gather {
  Side rows, columns;
  int C;
  const S* source;
  const float* filters;  // as ExpandFilters gives them
  const A* addend;
  S* target;

  __device__ void operator()(const PixelPlace& at) const {
    const std::int64_t image = at.n * rows.sources;
    const std::int64_t to = ((at.n * rows.targets + at.h) * columns.targets + at.w) * C + at.c;
    Floats<V> sum = load<V>(filters + at.c);
    if (addend != nullptr) {
      const Floats<V> plus = load<V>(addend + to);
#pragma unroll
      for (int v = 0; v < V; ++v) sum[v] += plus[v];
    }
    for (int kh = 0; kh < rows.kernel; ++kh) {
      const int y = rows.place(at.h, kh);
      if (y < 0) continue;
      for (int kw = 0; kw < columns.kernel; ++kw) {
        const int x = columns.place(at.w, kw);
        if (x < 0) continue;
        const Floats<V> there = load<V>(source + ((image + y) * columns.sources + x) * C + at.c);
        const Floats<V> filter = load<V>(filters + (1 + kh * columns.kernel + kw) * C + at.c);
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] += there[v] * filter[v];
      }
    }
    store<V>(target + to, sum);
  }
};

Side side(std::int64_t targets, std::int64_t sources, std::int64_t kernel, const Conv2dOptions& o, bool gradient) {
  return {static_cast<int>(targets),
          static_cast<int>(sources),
          static_cast<int>(kernel),
          static_cast<int>(o.stride),
          static_cast<int>(o.padding),
          static_cast<int>(o.dilation),
          gradient};
}

template <typename S, typename A>
void gather(const char* name, const Tensor& source, const Tensor& w, const Tensor& b, const Tensor& addend,
            const Conv2dOptions& o, bool gradient, Tensor& target) {
  const auto C = static_cast<int>(source.size(3)), R = static_cast<int>(w.size(0));
  const auto taps = static_cast<int>(w.size(1) * w.size(2));
  Scratch<float> filters((1 + static_cast<std::int64_t>(taps)) * C);
  for_each_item(name, (1 + static_cast<std::int64_t>(taps)) * C,
                ExpandFilters{w.data<float>(), b ? b.data<float>() : nullptr, R, taps, C, gradient, filters.data()});
  const Side rows = side(target.size(1), source.size(1), w.size(1), o, gradient);
  const Side columns = side(target.size(2), source.size(2), w.size(2), o, gradient);
  const A* plus = addend ? addend.data<A>() : nullptr;
  dispatch_width<S>(C, {source.raw(), plus, target.raw()}, [&]<int V>() {
    for_each_pixel<V>(name, target,
                      Gather<S, A, V>{rows, columns, C, source.data<S>(), filters.data(), plus, target.data<S>()});
  });
}

// --- gradient of the filters ---

// Products of one pixel's dy and of the x that its taps meet: of all taps of a 3x3 filter, column c.
template <typename S>
struct NineProducts {
  Side rows, columns;
  FastDivide by_rows, by_columns;
  int C;
  const S *dy, *x;

  __device__ Floats<9> operator()(std::int64_t pixel, std::int64_t c) const {
    const int line = by_columns(static_cast<int>(pixel)), column = static_cast<int>(pixel) - line * columns.targets;
    const int n = by_rows(line), row = line - n * rows.targets;
    const float g = load(dy + pixel * C + c);
    Floats<9> products;
#pragma unroll
    for (int kh = 0; kh < 3; ++kh) {
      const int y = rows.place(row, kh);
      const std::int64_t line_at = (static_cast<std::int64_t>(n) * rows.sources + y) * columns.sources;
#pragma unroll
      for (int kw = 0; kw < 3; ++kw) {
        const int z = columns.place(column, kw);
        products[3 * kh + kw] = y < 0 || z < 0 ? 0.0f : g * load(x + (line_at + z) * C + c);
      }
    }
    return products;
  }
};

// The product of one tap, column tap * C + c.
template <typename S>
struct TapProduct {
  Side rows, columns;
  int C;
  const S *dy, *x;
  __device__ Floats<1> operator()(std::int64_t pixel, std::int64_t i) const {
    const int at = static_cast<int>(i), tap = at / C, c = at - tap * C;
    const auto row = static_cast<int>(pixel / columns.targets % rows.targets);
    const auto column = static_cast<int>(pixel % columns.targets);
    const int y = rows.place(row, tap / columns.kernel), z = columns.place(column, tap % columns.kernel);
    if (y < 0 || z < 0) return {{0.0f}};
    const std::int64_t image = pixel / columns.targets / rows.targets * rows.sources;
    return {{load(dy + pixel * C + c) * load(x + ((image + y) * columns.sources + z) * C + c)}};
  }
};

// Sum i of column c to sums[i * C + c].
struct StoreColumn {
  int C;
  float* sums;
  template <int N>
  __device__ void operator()(std::int64_t c, const Floats<N>& sum) const {
#pragma unroll
    for (int i = 0; i < N; ++i) sums[i * C + c] = sum[i];
  }
};

// Adds the sums [taps, C] of all channels of a filter to dw [R, taps].
struct FoldFilters {
  const float* sums;
  int R, taps, C;
  float* dw;
  __device__ void operator()(std::int64_t i) const {
    const int at = static_cast<int>(i), r = at / taps, tap = at - r * taps;
    float sum = 0;
    for (int c = r; c < C; c += R) sum += sums[tap * C + c];
    dw[i] += sum;
  }
};

}  // namespace

void depthwise_conv2d_forward_cuda(const Tensor& x, const Tensor& w, const Tensor& b, const Tensor& addend,
                                   const Conv2dOptions& options, Tensor& y) {
  if (y.elements() == 0) return;
  dispatch_storage("conv2d", x.dtype(), [&]<typename S>() {
    const bool exact = addend && addend.dtype() == Dtype::float32;  // an addend may be exact where x is rounded
    exact ? gather<S, float>("depthwise_conv2d_forward", x, w, b, addend, options, false, y)
          : gather<S, S>("depthwise_conv2d_forward", x, w, b, addend, options, false, y);
  });
}

void depthwise_conv2d_backward_data_cuda(const Tensor& dy, const Tensor& w, const Conv2dOptions& options, Tensor& dx) {
  if (dx.elements() == 0) return;
  dispatch_storage("conv2d", dy.dtype(), [&]<typename S>() {
    gather<S, S>("depthwise_conv2d_backward_data", dy, w, Tensor(), Tensor(), options, true, dx);
  });
}

void depthwise_conv2d_backward_filter_cuda(const Tensor& dy, const Tensor& x, const Conv2dOptions& options,
                                           Tensor& dw) {
  if (dy.elements() == 0) return;
  dispatch_storage("conv2d", dy.dtype(), [&]<typename S>() {
    const auto C = static_cast<int>(x.size(3)), R = static_cast<int>(dw.size(0));
    const auto taps = static_cast<int>(dw.size(1) * dw.size(2));
    const std::int64_t columns = static_cast<std::int64_t>(taps) * C;
    Scratch<float> sums(columns);
    const Side rows = side(dy.size(1), x.size(1), dw.size(1), options, false);
    const Side places = side(dy.size(2), x.size(2), dw.size(2), options, false);
    const std::int64_t pixels = dy.shape().rows();
    const StoreColumn to{C, sums.data()};
    if (rows.kernel == 3 && places.kernel == 3 && pixels < std::int64_t{1} << 31) {
      column_sums<9>("depthwise_conv2d_backward_filter", pixels, C,
                     NineProducts<S>{rows, places, FastDivide(rows.targets), FastDivide(places.targets), C,
                                     dy.data<S>(), x.data<S>()},
                     to);
    } else {
      column_sums<1>("depthwise_conv2d_backward_filter", pixels, columns,
                     TapProduct<S>{rows, places, C, dy.data<S>(), x.data<S>()}, to);
    }
    for_each_item("depthwise_conv2d_backward_filter", dw.elements(),
                  FoldFilters{sums.data(), R, taps, C, dw.data<float>()});
  });
}

}  // namespace dattn::cuda
