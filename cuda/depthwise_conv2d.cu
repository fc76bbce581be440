// Depthwise convolution: device twins of layers/depthwise_conv2d_cpu.cpp. One kernel gathers outputs and gradients of
// inputs alike; the gradient of the filters is a sum of columns, one for each tap and channel.
#include "cuda/kernels.h"
#include "cuda/sums.cuh"
#include "layers/conv2d.h"

namespace dattn::cuda {

namespace {

// Filters [R,Kh,Kw,1] as [Kh*Kw, C], channel c being filter c mod R; flipped for the data gradient.
struct ExpandFilters {
  const float* w;
  int R, taps, C;
  bool flipped;
  float* expanded;
  __device__ void operator()(std::int64_t i) const {
    const int at = static_cast<int>(i), tap = at / C, c = at - tap * C;
    expanded[i] = w[c % R * taps + (flipped ? taps - 1 - tap : tap)];
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
      if (at % stride != 0) return -1;
      at /= stride;
    }
    return at >= 0 && at < sources ? at : -1;
  }
};

// kWidth channels of one target pixel: b + addend + the taps that meet it.
template <typename S, typename A, int kWidth>
struct Gather {
  Side rows, columns;
  int C, R;
  const S* source;
  const float *filters, *b;
  const A* addend;
  S* target;

  __device__ void operator()(std::int64_t i) const {
    const int parts = C / kWidth;
    const std::int64_t pixel = i / parts;
    const int c = static_cast<int>(i - pixel * parts) * kWidth;
    const auto row = static_cast<int>(pixel / columns.targets % rows.targets);
    const auto column = static_cast<int>(pixel % columns.targets);
    const std::int64_t image = pixel / columns.targets / rows.targets * rows.sources;
    Floats<kWidth> sum{};
    if (b != nullptr) {
#pragma unroll
      for (int v = 0; v < kWidth; ++v) sum[v] = b[(c + v) % R];
    }
    if (addend != nullptr) {
      const Floats<kWidth> plus = load<kWidth>(addend + pixel * C + c);
#pragma unroll
      for (int v = 0; v < kWidth; ++v) sum[v] += plus[v];
    }
    for (int kh = 0; kh < rows.kernel; ++kh) {
      const int y = rows.place(row, kh);
      if (y < 0) continue;
      for (int kw = 0; kw < columns.kernel; ++kw) {
        const int x = columns.place(column, kw);
        if (x < 0) continue;
        const Floats<kWidth> there = load<kWidth>(source + ((image + y) * columns.sources + x) * C + c);
        const Floats<kWidth> filter = load<kWidth>(filters + (kh * columns.kernel + kw) * C + c);
#pragma unroll
        for (int v = 0; v < kWidth; ++v) sum[v] += there[v] * filter[v];
      }
    }
    store<kWidth>(target + pixel * C + c, sum);
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

template <typename T>
bool aligned(const T* p) {
  return reinterpret_cast<std::uintptr_t>(p) % (4 * sizeof(T)) == 0;
}

template <typename S, typename A>
void gather(const char* name, const Tensor& source, const Tensor& w, const Tensor& b, const Tensor& addend,
            const Conv2dOptions& o, bool gradient, Tensor& target) {
  const auto C = static_cast<int>(source.size(3)), R = static_cast<int>(w.size(0));
  const auto taps = static_cast<int>(w.size(1) * w.size(2));
  Scratch<float> filters(static_cast<std::int64_t>(taps) * C);
  for_each_item(name, static_cast<std::int64_t>(taps) * C,
                ExpandFilters{w.data<float>(), R, taps, C, gradient, filters.data()});
  const Side rows = side(target.size(1), source.size(1), w.size(1), o, gradient);
  const Side columns = side(target.size(2), source.size(2), w.size(2), o, gradient);
  const S* from = source.data<S>();
  const float* start = b ? b.data<float>() : nullptr;
  const A* plus = addend ? addend.data<A>() : nullptr;
  S* to = target.data<S>();
  if (C % 4 == 0 && aligned(from) && aligned(plus) && aligned(to)) {
    for_each_item(name, target.elements() / 4,
                  Gather<S, A, 4>{rows, columns, C, R, from, filters.data(), start, plus, to});
  } else {
    for_each_item(name, target.elements(), Gather<S, A, 1>{rows, columns, C, R, from, filters.data(), start, plus, to});
  }
}

// Product of one pixel's dy and of the x that a tap meets there: column tap * C + c.
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

struct StoreColumn {
  float* sums;
  __device__ void operator()(std::int64_t i, const Floats<1>& sum) const { sums[i] = sum[0]; }
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
    const TapProduct<S> product{side(dy.size(1), x.size(1), dw.size(1), options, false),
                                side(dy.size(2), x.size(2), dw.size(2), options, false), C, dy.data<S>(), x.data<S>()};
    column_sums<1>("depthwise_conv2d_backward_filter", dy.shape().rows(), columns, product, StoreColumn{sums.data()});
    for_each_item("depthwise_conv2d_backward_filter", dw.elements(),
                  FoldFilters{sums.data(), R, taps, C, dw.data<float>()});
  });
}

}  // namespace dattn::cuda
