// CPU kernels of the depthwise convolution: vectors of channels, no rearranged copy of the image.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/depthwise_conv2d_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "core/parallel.h"
#include "core/partial_sums.h"
#include "core/prefetch.h"
#include "core/simd.h"
#include "layers/conv2d.h"
#include "layers/conv2d_taps.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// Filters [R,Kh,Kw,1] as [Kh*Kw, C], channel c being filter c mod R; flipped for the data gradient.
template <typename T>
void expand_filters(const T* w, std::int64_t R, std::int64_t taps, std::int64_t C, bool flipped, T* expanded) {
  for (std::int64_t k = 0; k < taps; ++k) {
    const T* tap = w + (flipped ? taps - 1 - k : k);
    T* to = expanded + k * C;
    for (std::int64_t c = 0; c < R; ++c) to[c] = tap[c * taps];
    for (std::int64_t c = R; c < C; ++c) to[c] = to[c - R];
  }
}

// Filters and bias ready for all channels, and the places that taps meet.
template <typename T>
struct Gather {
  Taps rows, cols;
  Scratch<T> filters, start;
  std::int64_t W, C, Kw;

  Gather(const Tensor& source, const Tensor& w, const Tensor& b, const Conv2dOptions& o, bool gradient,
         const Tensor& target)
      : rows(target.size(1), source.size(1), w.size(1), o, gradient),
        cols(target.size(2), source.size(2), w.size(2), o, gradient),
        filters(static_cast<std::size_t>(w.size(1) * w.size(2) * source.size(3))),
        start(static_cast<std::size_t>(source.size(3))),
        W(source.size(2)),
        C(source.size(3)),
        Kw(w.size(2)) {
    expand_filters(w.data<T>(), w.size(0), w.size(1) * Kw, C, gradient, filters.data());
    if (b) {
      expand_filters(b.data<T>(), w.size(0), 1, C, false, start.data());
    } else {
      std::fill_n(start.data(), C, T(0));
    }
  }

  // One target pixel: target[c] = b[c] + addend[c] + sum over the taps that meet it of w[tap, c] source[place, c], the
  // addend left out where null.
  template <typename S>
  HWY_INLINE void pixel(const S* source, std::int64_t i, std::int64_t j, const S* addend, S* target) {
    const auto taps_h = rows.of(i), taps_w = cols.of(j);
    for_blocks<T>(C, [&](auto d, auto V, std::int64_t c) HWY_ATTR {
      const std::size_t L = hn::Lanes(d);
      hn::Vec<decltype(d)> sum[V];
      for (int v = 0; v < V; ++v) sum[v] = hn::LoadU(d, start.data() + c + v * L);
      for (int v = 0; addend && v < V; ++v) sum[v] = hn::Add(sum[v], load(d, addend + c + v * L));
      for (const auto h : taps_h) {
        for (const auto w : taps_w) {
          const S* x = source + (h.source * W + w.source) * C + c;
          const T* f = filters.data() + (h.k * Kw + w.k) * C + c;
          for (int v = 0; v < V; ++v) sum[v] = hn::MulAdd(load(d, x + v * L), hn::LoadU(d, f + v * L), sum[v]);
        }
      }
      for (int v = 0; v < V; ++v) store(sum[v], d, target + c + v * L);
    });
  }
};

// Forward and data gradient alike: source and target are x and y, or dy and dx.
template <typename S>
void gather(const Tensor& source, const Tensor& w, const Tensor& b, const Tensor& addend, const Conv2dOptions& o,
            bool gradient, Tensor& target) {
  Gather<Exact<S>> g(source, w, b, o, gradient, target);
  const std::int64_t Ht = target.size(1), Wt = target.size(2), image = source.size(1) * g.W * g.C;
  const S *from = source.data<S>(), *plus = addend ? addend.data<S>() : nullptr;
  S* to = target.data<S>();
  const std::int64_t tile =
      std::max<std::int64_t>(1, 4096 / std::max<std::int64_t>(1, Wt * g.C));  // rows: some microseconds of work
  const std::int64_t rows = source.size(0) * Ht;
  parallel_for(rows, tile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
    auto ahead = Prefetch<S>::following(from, source.elements(), begin, end, rows, (end - begin) * Wt);
    for (std::int64_t r = begin; r < end; ++r) {
      for (std::int64_t j = 0; j < Wt; ++j) {
        ahead.step();
        const std::int64_t at = (r * Wt + j) * g.C;
        g.pixel(from + r / Ht * image, r % Ht, j, plus ? plus + at : nullptr, to + at);
      }
    }
  });
}

// sums[c] += sum over j < n of x[j * step, c] dy[j, c].
template <typename S, typename T>
HWY_INLINE void row_products(const S* x, std::int64_t step, const S* dy, std::int64_t n, std::int64_t C, T* sums) {
  for_blocks<T>(C, [&](auto d, auto V, std::int64_t c) HWY_ATTR {
    const std::size_t L = hn::Lanes(d);
    hn::Vec<decltype(d)> sum[V];
    for (int v = 0; v < V; ++v) sum[v] = hn::LoadU(d, sums + c + v * L);
    const S *px = x + c, *pdy = dy + c;
    for (std::int64_t j = 0; j < n; ++j, px += step, pdy += C) {
      for (int v = 0; v < V; ++v) sum[v] = hn::MulAdd(load(d, px + v * L), load(d, pdy + v * L), sum[v]);
    }
    for (int v = 0; v < V; ++v) hn::StoreU(sum[v], d, sums + c + v * L);
  });
}

// dw += the sums over images and pixels of dy times the places of x that a tap meets.
template <typename S>
class DepthwiseFilterGradient {
 public:
  using T = Exact<S>;

  DepthwiseFilterGradient(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw)
      : N_(x.size(0)),
        H_(x.size(1)),
        W_(x.size(2)),
        C_(x.size(3)),
        Ho_(dy.size(1)),
        Wo_(dy.size(2)),
        R_(dw.size(0)),
        Kh_(dw.size(1)),
        Kw_(dw.size(2)),
        o_(o),
        x_(x.data<S>()),
        dy_(dy.data<S>()),
        dw_(dw.data<T>()) {}

  void run() {
    const std::int64_t taps = Kh_ * Kw_;
    PartialSums<T> sums(N_, part_length(N_, 1, kParts), taps * C_);
    sums.gather([&](std::int64_t begin, std::int64_t end, T* sum) HWY_ATTR {
      for (std::int64_t n = begin; n < end; ++n) add_image(n, sum);
    });
    T* all = sums.part(0);
    for (std::int64_t i = 1; i < sums.parts(); ++i) axpy<T>(sums.size(), T(1), sums.part(i), all);
    for (std::int64_t c = 0; sums.parts() > 0 && c < C_; ++c) {
      for (std::int64_t k = 0; k < taps; ++k) dw_[c % R_ * taps + k] += all[k * C_ + c];
    }
  }

 private:
  static constexpr std::int64_t kParts = 64;

  // sums [Kh*Kw, C] += those of one image, while the next is asked for.
  void add_image(std::int64_t n, T* sums) const {
    const std::int64_t steps = Ho_ * Kh_ * Kw_;
    auto x_ahead = Prefetch<S>::following(x_, N_ * H_ * W_ * C_, n, n + 1, N_, steps);
    auto dy_ahead = Prefetch<S>::following(dy_, N_ * Ho_ * Wo_ * C_, n, n + 1, N_, steps);
    for (std::int64_t i = 0; i < Ho_; ++i) {
      for (std::int64_t kh = 0; kh < Kh_; ++kh) {
        const std::int64_t h = i * o_.stride - o_.padding + kh * o_.dilation;
        if (h < 0 || h >= H_) continue;
        for (std::int64_t kw = 0; kw < Kw_; ++kw) {
          x_ahead.step(), dy_ahead.step();
          add_row(x_ + (n * H_ + h) * W_ * C_, dy_ + (n * Ho_ + i) * Wo_ * C_, kw, sums + (kh * Kw_ + kw) * C_);
        }
      }
    }
  }

  // Those of one row of dy and the row of x that it meets.
  void add_row(const S* x, const S* dy, std::int64_t kw, T* sums) const {
    const TapTargets columns(kw, Wo_, W_, o_);
    if (columns.begin >= columns.end) return;
    row_products(x + (columns.begin * o_.stride + columns.shift) * C_, o_.stride * C_, dy + columns.begin * C_,
                 columns.end - columns.begin, C_, sums);
  }

  const std::int64_t N_, H_, W_, C_, Ho_, Wo_, R_, Kh_, Kw_;
  const Conv2dOptions o_;
  const S *x_, *dy_;
  T* dw_;
};

void DepthwiseForward(const Tensor& x, const Tensor& w, const Tensor& b, const Tensor& addend, const Conv2dOptions& o,
                      Tensor& y) {
  dispatch_activations("conv2d", x.dtype(), [&]<typename S>() HWY_ATTR { gather<S>(x, w, b, addend, o, false, y); });
}
void DepthwiseBackwardData(const Tensor& dy, const Tensor& w, const Conv2dOptions& o, Tensor& dx) {
  dispatch_activations("conv2d", dy.dtype(),
                       [&]<typename S>() HWY_ATTR { gather<S>(dy, w, Tensor(), Tensor(), o, true, dx); });
}
void DepthwiseBackwardFilter(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw) {
  dispatch_activations("conv2d", dy.dtype(),
                       [&]<typename S>() HWY_ATTR { DepthwiseFilterGradient<S>(dy, x, o, dw).run(); });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

namespace {
HWY_EXPORT(DepthwiseForward);
HWY_EXPORT(DepthwiseBackwardData);
HWY_EXPORT(DepthwiseBackwardFilter);
void forward_cpu(const Tensor& x, const Tensor& w, const Tensor& b, const Tensor& addend, const Conv2dOptions& o,
                 Tensor& y) {
  HWY_DYNAMIC_DISPATCH(DepthwiseForward)(x, w, b, addend, o, y);
}
void backward_data_cpu(const Tensor& dy, const Tensor& w, const Conv2dOptions& o, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(DepthwiseBackwardData)(dy, w, o, dx);
}
void backward_filter_cpu(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw) {
  HWY_DYNAMIC_DISPATCH(DepthwiseBackwardFilter)(dy, x, o, dw);
}
}  // namespace

constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Conv2dOptions&, Tensor&)>
    depthwise_conv2d_forward{"depthwise_conv2d_forward", forward_cpu, Bfloat16::native};
constinit Kernel<void(const Tensor&, const Tensor&, const Conv2dOptions&, Tensor&)> depthwise_conv2d_backward_data{
    "depthwise_conv2d_backward_data", backward_data_cpu, Bfloat16::native};
constinit Kernel<void(const Tensor&, const Tensor&, const Conv2dOptions&, Tensor&)> depthwise_conv2d_backward_filter{
    "depthwise_conv2d_backward_filter", backward_filter_cpu, Bfloat16::native};

}  // namespace dattn
#endif
