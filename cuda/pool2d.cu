// Pooling: a thread makes V channels of a pixel. Backward gathers, so every dx is written once. Device twins of
// layers/pool2d_cpu.cpp.
#include "layers/pool2d.h"

#include "cuda/channel_sweeps.cuh"
#include "cuda/kernels.h"
#include "cuda/maxima.cuh"
#include "cuda/pixel_rows.cuh"

namespace dattn::cuda {

namespace {

/// A range [begin, end) along one axis.
struct Span {
  int begin, end;
};

struct Window {
  int kernel, stride, padding;

  explicit Window(const PoolWindow& w)
      : kernel(static_cast<int>(w.kernel)), stride(static_cast<int>(w.stride)), padding(static_cast<int>(w.padding)) {}
  // Input rows (or columns) of output i's window that lie inside an image of `size`.
  __device__ Span covered(int i, int size) const {
    const int first = i * stride - padding;
    return {max(first, 0), min(first + kernel, size)};
  }
  // Outputs, of `size`, whose windows cover input row (or column) i.
  __device__ Span covering(int i, int size) const {
    const int last = i + padding, below = last - kernel + 1;
    return {below <= 0 ? 0 : (below + stride - 1) / stride, min(last / stride + 1, size)};
  }
};

// Sizes of images, and where the first of a pixel's channels from c on is.
struct Sizes {
  int H, W, C;

  explicit Sizes(const Tensor& x)
      : H(static_cast<int>(x.size(1))), W(static_cast<int>(x.size(2))), C(static_cast<int>(x.size(3))) {}
  __device__ std::int64_t at(std::int64_t n, int h, int w, int c) const {
    return ((n * H + h) * W + w) * static_cast<std::int64_t>(C) + c;
  }
};

// --- max ---

template <typename S, typename Tap, int V>
struct MaxForward {
  const S* x;
  Sizes in, out;
  Window window;
  S* y;
  Tap* taps;  // may be null
  __device__ void operator()(const PixelPlace& at) const {
    const Span rows = window.covered(at.h, in.H), columns = window.covered(at.w, in.W);
    const int top = at.h * window.stride - window.padding, left = at.w * window.stride - window.padding;
    Floats<V> best;
    Taps<V> place;
#pragma unroll
    for (int v = 0; v < V; ++v)
      best[v] = -INFINITY, place.v[v] = (rows.begin - top) * window.kernel + columns.begin - left;
    for (int h = rows.begin; h < rows.end; ++h) {
      for (int w = columns.begin; w < columns.end; ++w) {
        const Floats<V> here = load<V>(x + in.at(at.n, h, w, at.c));
        const int tap = (h - top) * window.kernel + w - left;
#pragma unroll
        for (int v = 0; v < V; ++v) keep_larger(here[v], tap, best[v], place.v[v]);
      }
    }
    const std::int64_t to = out.at(at.n, at.h, at.w, at.c);
    store<V>(y + to, best);
    if (taps != nullptr) store_taps<V>(taps + to, place);
  }
};

template <typename S, typename Tap, int V>
struct MaxBackward {
  const S* dy;
  const Tap* taps;
  Sizes in, out;
  Window window;
  S* dx;
  __device__ void operator()(const PixelPlace& at) const {
    const Span rows = window.covering(at.h, out.H), columns = window.covering(at.w, out.W);
    Floats<V> sum{};
    for (int i = rows.begin; i < rows.end; ++i) {
      for (int j = columns.begin; j < columns.end; ++j) {
        const std::int64_t from = out.at(at.n, i, j, at.c);
        const int here =
            (at.h - i * window.stride + window.padding) * window.kernel + at.w - j * window.stride + window.padding;
        const Floats<V> g = load<V>(dy + from);
        const Taps<V> place = load_taps<V>(taps + from);
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] += place.v[v] == here ? g[v] : 0.0f;
      }
    }
    store<V>(dx + in.at(at.n, at.h, at.w, at.c), sum);
  }
};

// Calls f.operator()<Tap>() with the type of taps, which may be undefined.
template <typename F>
void dispatch_taps(const Tensor& taps, F&& f) {
  if (taps && taps.dtype() == Dtype::int32) return f.template operator()<std::int32_t>();
  f.template operator()<std::uint8_t>();
}

// --- average ---

// Every pixel of `to` is `scale` times the sum of the pixels of `from` that its window covers or, backward, of those
// whose windows cover it.
template <typename S, int V, bool kBackward>
struct Average {
  const S* from;
  Sizes in, out;  // of `from` and `to`
  Window window;
  float scale;
  S* to;
  __device__ void operator()(const PixelPlace& at) const {
    const Span rows = span(at.h, in.H), columns = span(at.w, in.W);
    Floats<V> sum{};
    for (int h = rows.begin; h < rows.end; ++h) {
      for (int w = columns.begin; w < columns.end; ++w) {
        const Floats<V> here = load<V>(from + in.at(at.n, h, w, at.c));
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] += here[v];
      }
    }
#pragma unroll
    for (int v = 0; v < V; ++v) sum[v] *= scale;
    store<V>(to + out.at(at.n, at.h, at.w, at.c), sum);
  }
  __device__ Span span(int i, int size) const { return kBackward ? window.covering(i, size) : window.covered(i, size); }
};

template <bool kBackward>
void average(const char* name, const Tensor& from, const PoolWindow& window, Tensor& to) {
  const float scale = 1.0f / static_cast<float>(window.kernel * window.kernel);
  dispatch_storage("avg_pool2d", from.dtype(), [&]<typename S>() {
    dispatch_width<S>(from.size(3), {from.raw(), to.raw()}, [&]<int V>() {
      for_each_pixel<V>(
          name, to,
          Average<S, V, kBackward>{from.data<S>(), Sizes(from), Sizes(to), Window(window), scale, to.data<S>()});
    });
  });
}

// --- global average ---

template <typename S, int V>
struct PixelSums {
  const S* x;
  __device__ int channels(std::int64_t, std::int64_t) const { return 0; }
  __device__ void operator()(int, std::int64_t i, Floats<V> (&sum)[1]) const {
    const Floats<V> here = load<V>(x + i);
#pragma unroll
    for (int v = 0; v < V; ++v) sum[0][v] += here[v];
  }
};

template <typename S>
struct StoreMean {
  float share;
  S* y;
  __device__ void operator()(std::int64_t k, Floats<1> sum) const { store(y + k, sum[0] * share); }
};

template <typename S, int V>
struct SpreadMean {
  const S* dy;
  float share;
  S* dx;
  __device__ Floats<V> channels(std::int64_t k, std::int64_t) const {
    Floats<V> g;
#pragma unroll
    for (int v = 0; v < V; ++v) g[v] = load(dy + k + v) * share;
    return g;
  }
  __device__ void operator()(const Floats<V>& g, std::int64_t i) const { store<V>(dx + i, g); }
};

ChannelSweep by_image(const Tensor& x) { return {x.size(0), x.size(1) * x.size(2), x.size(3)}; }

}  // namespace

void max_pool2d_forward_cuda(const Tensor& x, PoolWindow window, Tensor& y, Tensor& taps) {
  dispatch_storage("max_pool2d", x.dtype(), [&]<typename S>() {
    dispatch_taps(taps, [&]<typename Tap>() {
      dispatch_width<S>(x.size(3), {x.raw(), y.raw(), taps.raw()}, [&]<int V>() {
        for_each_pixel<V>("max_pool2d_forward", y,
                          MaxForward<S, Tap, V>{x.data<S>(), Sizes(x), Sizes(y), Window(window), y.data<S>(),
                                                taps ? taps.data<Tap>() : nullptr});
      });
    });
  });
}

void max_pool2d_backward_cuda(const Tensor& dy, const Tensor& taps, PoolWindow window, Tensor& dx) {
  dispatch_storage("max_pool2d", dy.dtype(), [&]<typename S>() {
    dispatch_taps(taps, [&]<typename Tap>() {
      dispatch_width<S>(dx.size(3), {dy.raw(), taps.raw(), dx.raw()}, [&]<int V>() {
        for_each_pixel<V>(
            "max_pool2d_backward", dx,
            MaxBackward<S, Tap, V>{dy.data<S>(), taps.data<Tap>(), Sizes(dx), Sizes(dy), Window(window), dx.data<S>()});
      });
    });
  });
}

void avg_pool2d_forward_cuda(const Tensor& x, PoolWindow window, Tensor& y) {
  average<false>("avg_pool2d_forward", x, window, y);
}

void avg_pool2d_backward_cuda(const Tensor& dy, PoolWindow window, Tensor& dx) {
  average<true>("avg_pool2d_backward", dy, window, dx);
}

void global_avg_pool_forward_cuda(const Tensor& x, Tensor& y) {
  const ChannelSweep sweep = by_image(x);
  const float share = 1.0f / static_cast<float>(sweep.rows);
  dispatch_storage("global_avg_pool", x.dtype(), [&]<typename S>() {
    dispatch_width<S>(sweep.channels, {x.raw()}, [&]<int V>() {
      channel_sums<V, 1>("global_avg_pool_forward", sweep, PixelSums<S, V>{x.data<S>()},
                         StoreMean<S>{share, y.data<S>()});
    });
  });
}

void global_avg_pool_backward_cuda(const Tensor& dy, Tensor& dx) {
  const ChannelSweep sweep = by_image(dx);
  const float share = 1.0f / static_cast<float>(sweep.rows);
  dispatch_storage("global_avg_pool", dy.dtype(), [&]<typename S>() {
    dispatch_width<S>(sweep.channels, {dx.raw()}, [&]<int V>() {
      channel_map<V>("global_avg_pool_backward", sweep, SpreadMean<S, V>{dy.data<S>(), share, dx.data<S>()});
    });
  });
}

}  // namespace dattn::cuda
