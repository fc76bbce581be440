// CPU kernels of pooling, over rows of pixels with SIMD over the channels. Backward gathers: an input pixel sums over
// the windows that cover it, so every dx is written once, by one thread.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/pool2d_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <limits>

#include "layers/channel_sweeps-inl.h"
#include "layers/pool2d.h"
#include "layers/pool_taps-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

/// A range [begin, end) along one axis.
struct Span {
  std::int64_t begin, end;
};

/// Input rows (or columns) of output i's window that lie inside an image of `size`.
inline Span covered(const PoolWindow& window, std::int64_t i, std::int64_t size) {
  const std::int64_t first = i * window.stride - window.padding;
  return {std::max<std::int64_t>(first, 0), std::min(first + window.kernel, size)};
}

/// Outputs, of `size`, whose windows cover input row (or column) i.
inline Span covering(const PoolWindow& window, std::int64_t i, std::int64_t size) {
  const std::int64_t last = i + window.padding, below = last - window.kernel + 1;
  return {below <= 0 ? 0 : (below + window.stride - 1) / window.stride, std::min(last / window.stride + 1, size)};
}

/// `covered` or `covering` of all `count` indices along an axis whose other side is `size` long, found once: divisions
/// are slow beside the few channels of a pixel.
struct Spans {
  Scratch<Span> spans;
  template <typename F>
  Spans(F&& span_of, const PoolWindow& window, std::int64_t count, std::int64_t size)
      : spans(static_cast<std::size_t>(count)) {
    for (std::int64_t i = 0; i < count; ++i) spans.data()[i] = span_of(window, i, size);
  }
  Span operator[](std::int64_t i) { return spans.data()[i]; }
};

/// Calls f(n, i) for the rows of pixels of images [N,H,W,C], several rows a tile.
template <typename F>
HWY_INLINE void for_pixel_rows(const Tensor& images, F&& f) {
  const std::int64_t H = images.size(1), row = std::max<std::int64_t>(1, images.size(2) * images.size(3));
  parallel_for(images.size(0) * H, std::max<std::int64_t>(1, kElementTile / row),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t k = begin; k < end; ++k) f(k / H, k % H);
               });
}

// --- max ---

// One output pixel: largest of the window [rows] x [columns] of one image, and where it was if taps is given. K is the
// kernel where it is known and the window whole, else 0.
template <int K, typename T, typename Tap>
HWY_INLINE void max_of_window(const T* image, std::int64_t W, std::int64_t C, Span rows, Span columns,
                              std::int64_t first_tap, std::int64_t kernel, T* y, Tap* taps) {
  using Index = hwy::MakeUnsigned<T>;
  const std::int64_t height = K ? K : rows.end - rows.begin, width = K ? K : columns.end - columns.begin,
                     step = K ? K : kernel;
  const T* corner = image + (rows.begin * W + columns.begin) * C;
  for_lanes<T>(C, [&](auto d, std::int64_t c) HWY_ATTR {
    const hn::RebindToUnsigned<decltype(d)> di;
    auto best = hn::Set(d, -std::numeric_limits<T>::infinity());
    auto place = hn::Set(di, static_cast<Index>(first_tap));
    for (std::int64_t h = 0; h < height; ++h) {
      for (std::int64_t w = 0; w < width; ++w) {
        keep_larger(d, hn::LoadU(d, corner + (h * W + w) * C + c), first_tap + h * step + w, best, place);
      }
    }
    hn::StoreU(best, d, y + c);
    if (taps) store_taps(d, place, taps + c);
  });
}

template <typename T, typename Tap>
HWY_INLINE void max_forward(const Tensor& x, const PoolWindow& window, Tensor& y, Tap* taps) {
  const std::int64_t H = x.size(1), W = x.size(2), C = x.size(3), Ho = y.size(1), Wo = y.size(2), K = window.kernel;
  const T* px = x.data<T>();
  T* py = y.data<T>();
  for_pixel_rows(y, [&](std::int64_t n, std::int64_t i) HWY_ATTR {
    const T* image = px + n * H * W * C;
    const Span rows = covered(window, i, H);
    for (std::int64_t j = 0; j < Wo; ++j) {
      const Span columns = covered(window, j, W);
      const std::int64_t first_tap =
          (rows.begin + window.padding - i * window.stride) * K + (columns.begin + window.padding - j * window.stride);
      const std::int64_t pixel = ((n * Ho + i) * Wo + j) * C;
      const auto run = [&]<int known>() HWY_ATTR {
        max_of_window<known>(image, W, C, rows, columns, first_tap, K, py + pixel, taps ? taps + pixel : nullptr);
      };
      const bool whole = rows.end - rows.begin == K && columns.end - columns.begin == K;
      whole&& K == 2   ? run.template operator()<2>()
      : whole&& K == 3 ? run.template operator()<3>()
                       : run.template operator()<0>();
    }
  });
}

void MaxPool2dForward(const Tensor& x, PoolWindow window, Tensor& y, Tensor& taps) {
  dispatch_float("max_pool2d", x.dtype(), [&]<typename T>() HWY_ATTR {
    if (taps && taps.dtype() == Dtype::int32) return max_forward<T>(x, window, y, taps.data<std::int32_t>());
    max_forward<T>(x, window, y, taps ? taps.data<std::uint8_t>() : nullptr);
  });
}

// One input pixel: dx = sum of dy over the windows [rows] x [columns] that have their maximum there. `place` is its
// place in window (0, 0), from which it moves back by `down` and `right` with each window. Single where just one window
// covers it.
template <bool Single, typename T, typename Tap>
HWY_INLINE void gather_maxima(const T* dy, const Tap* taps, std::int64_t Wo, std::int64_t C, Span rows, Span columns,
                              std::int64_t place, std::int64_t down, std::int64_t right, T* dx) {
  using Index = hwy::MakeUnsigned<T>;
  const std::int64_t height = Single ? 1 : rows.end - rows.begin, width = Single ? 1 : columns.end - columns.begin;
  const std::int64_t first = (rows.begin * Wo + columns.begin) * C,
                     first_place = place - rows.begin * down - columns.begin * right;
  for_lanes<T>(C, [&](auto d, std::int64_t c) HWY_ATTR {
    const hn::RebindToUnsigned<decltype(d)> di;
    auto sum = hn::Zero(d);
    for (std::int64_t i = 0; i < height; ++i) {
      for (std::int64_t j = 0; j < width; ++j) {
        const std::int64_t at = first + (i * Wo + j) * C + c;
        const auto here = hn::Set(di, static_cast<Index>(first_place - i * down - j * right));
        const auto hit = hn::RebindMask(d, hn::Eq(load_taps(d, taps + at), here));
        sum = hn::Add(sum, hn::IfThenElseZero(hit, hn::LoadU(d, dy + at)));
      }
    }
    hn::StoreU(sum, d, dx + c);
  });
}

template <typename T, typename Tap>
HWY_INLINE void max_backward(const Tensor& dy, const Tap* taps, const PoolWindow& window, Tensor& dx) {
  const std::int64_t H = dx.size(1), W = dx.size(2), C = dx.size(3), Ho = dy.size(1), Wo = dy.size(2),
                     K = window.kernel;
  const T* pdy = dy.data<T>();
  T* pdx = dx.data<T>();
  Spans all_columns(covering, window, W, Wo);
  for_pixel_rows(dx, [&](std::int64_t n, std::int64_t h) HWY_ATTR {
    const Span rows = covering(window, h, Ho);
    const std::int64_t image = n * Ho * Wo * C;
    for (std::int64_t w = 0; w < W; ++w) {
      const Span columns = all_columns[w];
      const auto run = [&]<bool single>() HWY_ATTR {
        gather_maxima<single>(pdy + image, taps + image, Wo, C, rows, columns,
                              (h + window.padding) * K + w + window.padding, window.stride * K, window.stride,
                              pdx + ((n * H + h) * W + w) * C);
      };
      const bool single = rows.end - rows.begin == 1 && columns.end - columns.begin == 1;
      single ? run.template operator()<true>() : run.template operator()<false>();
    }
  });
}

void MaxPool2dBackward(const Tensor& dy, const Tensor& taps, PoolWindow window, Tensor& dx) {
  dispatch_float("max_pool2d", dy.dtype(), [&]<typename T>() HWY_ATTR {
    if (taps.dtype() == Dtype::int32) return max_backward<T>(dy, taps.data<std::int32_t>(), window, dx);
    max_backward<T>(dy, taps.data<std::uint8_t>(), window, dx);
  });
}

// --- average ---

// to [C] = scale * sum of the pixels [rows] x [columns] of an image of width W.
template <typename T>
HWY_INLINE void sum_of_pixels(const T* image, std::int64_t W, std::int64_t C, Span rows, Span columns, T scale, T* to) {
  for_lanes<T>(C, [&](auto d, std::int64_t c) HWY_ATTR {
    auto sum = hn::Zero(d);
    for (std::int64_t h = rows.begin; h < rows.end; ++h) {
      for (std::int64_t w = columns.begin; w < columns.end; ++w)
        sum = hn::Add(sum, hn::LoadU(d, image + (h * W + w) * C + c));
    }
    hn::StoreU(hn::Mul(sum, hn::Set(d, scale)), d, to + c);
  });
}

// Both directions: every pixel of `to` sums the pixels of `from` in the spans that `pixels` gives for each axis.
template <typename T, typename F>
HWY_INLINE void average(const Tensor& from, const PoolWindow& window, Tensor& to, F&& pixels) {
  const std::int64_t H = from.size(1), W = from.size(2), C = from.size(3), Ht = to.size(1), Wt = to.size(2);
  const T scale = 1 / static_cast<T>(window.kernel * window.kernel);
  const T* all = from.data<T>();
  T* result = to.data<T>();
  Spans columns(pixels, window, Wt, W);
  for_pixel_rows(to, [&](std::int64_t n, std::int64_t i) HWY_ATTR {
    const Span rows = pixels(window, i, H);
    for (std::int64_t j = 0; j < Wt; ++j) {
      sum_of_pixels(all + n * H * W * C, W, C, rows, columns[j], scale, result + ((n * Ht + i) * Wt + j) * C);
    }
  });
}

void AvgPool2dForward(const Tensor& x, PoolWindow window, Tensor& y) {
  dispatch_float("avg_pool2d", x.dtype(), [&]<typename T>() HWY_ATTR { average<T>(x, window, y, covered); });
}

void AvgPool2dBackward(const Tensor& dy, PoolWindow window, Tensor& dx) {
  dispatch_float("avg_pool2d", dy.dtype(), [&]<typename T>() HWY_ATTR { average<T>(dy, window, dx, covering); });
}

// --- global average ---

void GlobalAvgPoolForward(const Tensor& x, Tensor& y) {
  dispatch_float("global_avg_pool", x.dtype(), [&]<typename T>() HWY_ATTR {
    const ChannelSweep sweep(x.size(0), x.size(1) * x.size(2), x.size(3));
    const T* px = x.data<T>();
    T* py = y.data<T>();
    channel_sums<T>(sweep, {}, py, nullptr, [&](auto d, std::int64_t i, const T*, auto& sum, auto&) HWY_ATTR {
      sum = hn::Add(sum, hn::LoadU(d, px + i));
    });
    for (std::int64_t i = 0; i < y.elements(); ++i) py[i] /= static_cast<T>(sweep.rows);
  });
}

void GlobalAvgPoolBackward(const Tensor& dy, Tensor& dx) {
  dispatch_float("global_avg_pool", dy.dtype(), [&]<typename T>() HWY_ATTR {
    const std::int64_t H = dx.size(1), W = dx.size(2), C = dx.size(3);
    const T scale = 1 / static_cast<T>(H * W);
    const T* pdy = dy.data<T>();
    T* pdx = dx.data<T>();
    for_pixel_rows(dx, [&](std::int64_t n, std::int64_t h) HWY_ATTR {
      for (std::int64_t w = 0; w < W; ++w) {
        sum_of_pixels(pdy + n * C, 1, C, {0, 1}, {0, 1}, scale, pdx + ((n * H + h) * W + w) * C);
      }
    });
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(MaxPool2dForward);
static void max_pool2d_forward_cpu(const Tensor& x, PoolWindow window, Tensor& y, Tensor& taps) {
  HWY_DYNAMIC_DISPATCH(MaxPool2dForward)(x, window, y, taps);
}
constinit Kernel<void(const Tensor&, PoolWindow, Tensor&, Tensor&)> max_pool2d_forward{"max_pool2d_forward",
                                                                                       max_pool2d_forward_cpu};

HWY_EXPORT(MaxPool2dBackward);
static void max_pool2d_backward_cpu(const Tensor& dy, const Tensor& taps, PoolWindow window, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(MaxPool2dBackward)(dy, taps, window, dx);
}
constinit Kernel<void(const Tensor&, const Tensor&, PoolWindow, Tensor&)> max_pool2d_backward{"max_pool2d_backward",
                                                                                              max_pool2d_backward_cpu};

HWY_EXPORT(AvgPool2dForward);
static void avg_pool2d_forward_cpu(const Tensor& x, PoolWindow window, Tensor& y) {
  HWY_DYNAMIC_DISPATCH(AvgPool2dForward)(x, window, y);
}
constinit Kernel<void(const Tensor&, PoolWindow, Tensor&)> avg_pool2d_forward{"avg_pool2d_forward",
                                                                              avg_pool2d_forward_cpu};

HWY_EXPORT(AvgPool2dBackward);
static void avg_pool2d_backward_cpu(const Tensor& dy, PoolWindow window, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(AvgPool2dBackward)(dy, window, dx);
}
constinit Kernel<void(const Tensor&, PoolWindow, Tensor&)> avg_pool2d_backward{"avg_pool2d_backward",
                                                                               avg_pool2d_backward_cpu};

HWY_EXPORT(GlobalAvgPoolForward);
static void global_avg_pool_forward_cpu(const Tensor& x, Tensor& y) {
  HWY_DYNAMIC_DISPATCH(GlobalAvgPoolForward)(x, y);
}
constinit Kernel<void(const Tensor&, Tensor&)> global_avg_pool_forward{"global_avg_pool_forward",
                                                                       global_avg_pool_forward_cpu};

HWY_EXPORT(GlobalAvgPoolBackward);
static void global_avg_pool_backward_cpu(const Tensor& dy, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(GlobalAvgPoolBackward)(dy, dx);
}
constinit Kernel<void(const Tensor&, Tensor&)> global_avg_pool_backward{"global_avg_pool_backward",
                                                                        global_avg_pool_backward_cpu};

}  // namespace dattn
#endif
