// CPU kernels of the depthwise convolution: vectors of channels, no rearranged copy of the image.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/depthwise_conv2d_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "core/parallel.h"
#include "core/simd.h"
#include "layers/conv2d.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// Which tap of the kernel meets which place of the source, for every place of the target, along one side. Forward the
// target is y and the source x: source = target s - p + k d. For the data gradient the target is dx and the source dy,
// wherever target + p - k d is a multiple of s.
struct Meeting {
  std::int32_t tap, source;
};
class Meetings {
 public:
  Meetings(std::int64_t targets, std::int64_t sources, std::int64_t kernel, const Conv2dOptions& o, bool transposed)
      : meetings_(static_cast<std::size_t>(targets * kernel)), begin_(static_cast<std::size_t>(targets + 1)) {
    std::int32_t count = 0;
    for (std::int64_t t = 0; t < targets; ++t) {
      begin_[static_cast<std::size_t>(t)] = count;
      for (std::int64_t k = 0; k < kernel; ++k) {
        std::int64_t source = transposed ? t + o.padding - k * o.dilation : t * o.stride - o.padding + k * o.dilation;
        if (transposed && source % o.stride != 0) continue;
        if (transposed) source /= o.stride;
        if (source < 0 || source >= sources) continue;
        meetings_[static_cast<std::size_t>(count++)] = {static_cast<std::int32_t>(k),
                                                        static_cast<std::int32_t>(source)};
      }
    }
    begin_[static_cast<std::size_t>(targets)] = count;
  }
  const Meeting* begin(std::int64_t t) { return meetings_.data() + begin_[static_cast<std::size_t>(t)]; }
  const Meeting* end(std::int64_t t) { return begin(t + 1); }

 private:
  Scratch<Meeting> meetings_;
  Scratch<std::int32_t> begin_;
};

// Filters [R,Kh,Kw,1] as [Kh*Kw, C], channel c being filter c mod R.
template <typename T>
void ExpandFilters(const T* w, std::int64_t R, std::int64_t taps, std::int64_t C, T* expanded) {
  for (std::int64_t k = 0; k < taps; ++k) {
    for (std::int64_t c = 0; c < C; ++c) expanded[k * C + c] = w[c % R * taps + k];
  }
}

// One target pixel: out[c] = b[c] + sum over the taps that meet it of w[tap, c] in[source, c]. Blocks of four vectors.
template <typename T>
HWY_INLINE void OnePixel(const T* in, std::int64_t row_stride, const T* w, std::int64_t Kw, const T* b, std::int64_t C,
                         const Meeting* h_begin, const Meeting* h_end, const Meeting* w_begin, const Meeting* w_end,
                         T* out) {
  const auto each_tap = [&](auto&& f) HWY_ATTR {
    for (const Meeting* mh = h_begin; mh < h_end; ++mh) {
      for (const Meeting* mw = w_begin; mw < w_end; ++mw) {
        f(in + mh->source * row_stride + mw->source * C, w + (mh->tap * Kw + mw->tap) * C);
      }
    }
  };
  const Wide<T> d;
  const auto L = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t c = 0;
  for (; c + 4 * L <= C; c += 4 * L) {
    auto a0 = b ? hn::LoadU(d, b + c) : hn::Zero(d), a1 = b ? hn::LoadU(d, b + c + L) : hn::Zero(d);
    auto a2 = b ? hn::LoadU(d, b + c + 2 * L) : hn::Zero(d), a3 = b ? hn::LoadU(d, b + c + 3 * L) : hn::Zero(d);
    each_tap([&](const T* x, const T* f) HWY_ATTR {
      a0 = hn::MulAdd(hn::LoadU(d, x + c), hn::LoadU(d, f + c), a0);
      a1 = hn::MulAdd(hn::LoadU(d, x + c + L), hn::LoadU(d, f + c + L), a1);
      a2 = hn::MulAdd(hn::LoadU(d, x + c + 2 * L), hn::LoadU(d, f + c + 2 * L), a2);
      a3 = hn::MulAdd(hn::LoadU(d, x + c + 3 * L), hn::LoadU(d, f + c + 3 * L), a3);
    });
    hn::StoreU(a0, d, out + c);
    hn::StoreU(a1, d, out + c + L);
    hn::StoreU(a2, d, out + c + 2 * L);
    hn::StoreU(a3, d, out + c + 3 * L);
  }
  for_lanes<T>(C - c, [&](auto v, std::int64_t i) HWY_ATTR {
    auto a = b ? hn::LoadU(v, b + c + i) : hn::Zero(v);
    each_tap([&](const T* x, const T* f)
                 HWY_ATTR { a = hn::MulAdd(hn::LoadU(v, x + c + i), hn::LoadU(v, f + c + i), a); });
    hn::StoreU(a, v, out + c + i);
  });
}

// Forward and data gradient alike: `in` and `out` are x and y, or dy and dx.
template <typename T>
void Gather(const Tensor& in, const Tensor& w, const Tensor& b, const Conv2dOptions& o, bool transposed, Tensor& out) {
  const std::int64_t H = in.size(1), W = in.size(2), C = in.size(3), Ht = out.size(1), Wt = out.size(2);
  const std::int64_t R = w.size(0), Kh = w.size(1), Kw = w.size(2);
  Scratch<T> filters(static_cast<std::size_t>(Kh * Kw * C)), bias(static_cast<std::size_t>(C));
  ExpandFilters(w.data<T>(), R, Kh * Kw, C, filters.data());
  if (b) ExpandFilters(b.data<T>(), R, 1, C, bias.data());
  Meetings rows(Ht, H, Kh, o, transposed), columns(Wt, W, Kw, o, transposed);
  const T *source = in.data<T>(), *pw = filters.data(), *pb = b ? bias.data() : nullptr;
  T* target = out.data<T>();
  const std::int64_t tile = std::max<std::int64_t>(1, 32768 / (Wt * C));  // rows
  parallel_for(in.size(0) * Ht, tile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t n = r / Ht, i = r % Ht;
      for (std::int64_t j = 0; j < Wt; ++j) {
        OnePixel(source + n * H * W * C, W * C, pw, Kw, pb, C, rows.begin(i), rows.end(i), columns.begin(j),
                 columns.end(j), target + (r * Wt + j) * C);
      }
    }
  });
}

// sums[c] += sum over j < n of x[j * step, c] dy[j, c].
template <typename T>
HWY_INLINE void RowProducts(const T* x, std::int64_t step, const T* dy, std::int64_t n, std::int64_t C, T* sums) {
  for_lanes<T>(C, [&](auto d, std::int64_t c) HWY_ATTR {
    auto s = hn::LoadU(d, sums + c);
    for (std::int64_t j = 0; j < n; ++j)
      s = hn::MulAdd(hn::LoadU(d, x + j * step + c), hn::LoadU(d, dy + j * C + c), s);
    hn::StoreU(s, d, sums + c);
  });
}

// One image: sums [Kh*Kw, C] += the filters' gradient.
template <typename T>
void FilterSums(const T* x, std::int64_t H, std::int64_t W, const T* dy, std::int64_t Ho, std::int64_t Wo,
                std::int64_t C, std::int64_t Kh, std::int64_t Kw, const Conv2dOptions& o, T* sums) {
  for (std::int64_t i = 0; i < Ho; ++i) {
    for (std::int64_t kh = 0; kh < Kh; ++kh) {
      const std::int64_t h = i * o.stride - o.padding + kh * o.dilation;
      if (h < 0 || h >= H) continue;
      for (std::int64_t kw = 0; kw < Kw; ++kw) {
        const std::int64_t shift = kw * o.dilation - o.padding;  // column j of dy meets column j stride + shift of x
        const std::int64_t begin = shift >= 0 ? 0 : (-shift + o.stride - 1) / o.stride;
        const std::int64_t end = shift >= W ? 0 : std::min(Wo, (W - 1 - shift) / o.stride + 1);
        if (begin < end) {
          RowProducts(x + (h * W + begin * o.stride + shift) * C, o.stride * C, dy + (i * Wo + begin) * C, end - begin,
                      C, sums + (kh * Kw + kw) * C);
        }
      }
    }
  }
}

constexpr std::int64_t kParts = 64;  // partial sums of the filters' gradient, added in order

template <typename T>
void FilterGradient(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw) {
  const std::int64_t N = x.size(0), H = x.size(1), W = x.size(2), C = x.size(3), Ho = dy.size(1), Wo = dy.size(2);
  const std::int64_t R = dw.size(0), Kh = dw.size(1), Kw = dw.size(2), taps = Kh * Kw;
  const std::int64_t part = std::max<std::int64_t>(1, (N + kParts - 1) / kParts), parts = tile_count(N, part);
  Scratch<T> partial(static_cast<std::size_t>(parts * taps * C));
  const T *px = x.data<T>(), *pdy = dy.data<T>();
  T *sums = partial.data(), *pdw = dw.data<T>();
  parallel_for(N, part, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
    T* s = sums + begin / part * taps * C;
    std::fill_n(s, taps * C, T(0));
    for (std::int64_t n = begin; n < end; ++n) {
      FilterSums(px + n * H * W * C, H, W, pdy + n * Ho * Wo * C, Ho, Wo, C, Kh, Kw, o, s);
    }
  });
  for (std::int64_t i = 1; i < parts; ++i) axpy<T>(taps * C, T(1), sums + i * taps * C, sums);
  for (std::int64_t c = 0; parts > 0 && c < C; ++c) {
    for (std::int64_t k = 0; k < taps; ++k) pdw[c % R * taps + k] += sums[k * C + c];
  }
}

void DepthwiseForward(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y) {
  dispatch_float("conv2d", x.dtype(), [&]<typename T>() HWY_ATTR { Gather<T>(x, w, b, o, false, y); });
}
void DepthwiseBackwardData(const Tensor& dy, const Tensor& w, const Conv2dOptions& o, Tensor& dx) {
  dispatch_float("conv2d", dy.dtype(), [&]<typename T>() HWY_ATTR { Gather<T>(dy, w, Tensor(), o, true, dx); });
}
void DepthwiseBackwardFilter(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw) {
  dispatch_float("conv2d", dy.dtype(), [&]<typename T>() HWY_ATTR { FilterGradient<T>(dy, x, o, dw); });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

namespace {
HWY_EXPORT(DepthwiseForward);
HWY_EXPORT(DepthwiseBackwardData);
HWY_EXPORT(DepthwiseBackwardFilter);
void forward_cpu(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y) {
  HWY_DYNAMIC_DISPATCH(DepthwiseForward)(x, w, b, o, y);
}
void backward_data_cpu(const Tensor& dy, const Tensor& w, const Conv2dOptions& o, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(DepthwiseBackwardData)(dy, w, o, dx);
}
void backward_filter_cpu(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw) {
  HWY_DYNAMIC_DISPATCH(DepthwiseBackwardFilter)(dy, x, o, dw);
}
}  // namespace

constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Conv2dOptions&, Tensor&)>
    depthwise_conv2d_forward{"depthwise_conv2d_forward", forward_cpu};
constinit Kernel<void(const Tensor&, const Tensor&, const Conv2dOptions&, Tensor&)> depthwise_conv2d_backward_data{
    "depthwise_conv2d_backward_data", backward_data_cpu};
constinit Kernel<void(const Tensor&, const Tensor&, const Conv2dOptions&, Tensor&)> depthwise_conv2d_backward_filter{
    "depthwise_conv2d_backward_filter", backward_filter_cpu};

}  // namespace dattn
#endif
