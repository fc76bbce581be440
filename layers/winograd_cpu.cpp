// CPU kernels of Winograd's F(4x4, 3x3), forward and data gradient. With the matrices B, G and A of the algorithm and d
// a square of 6x6 pixels,
//   y = A' [sum over channels of (G w G') * (B' d B)] A        (4x4 pixels)
// where * multiplies the 36 places one by one: for each place, a matrix product over channels. Squares go through in
// blocks, whose transforms stay in the cache.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/winograd_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "core/memory.h"
#include "layers/winograd.h"
#include "layers/winograd_squares-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

constexpr std::int64_t kGroupColumns = 64;  // output channels whose products wait together for their transform

// From the squares `Source` to the squares `Target`: from x to y, or for the data gradient from dy to dx, where the
// kernel is flipped and its channels are exchanged.
template <class Source, class Target>
class Winograd {
 public:
  Winograd(const Source& source, const Tensor& w, const Tensor& b, bool gradient, const Target& target,
           std::int64_t images)
      : gradient_(gradient),
        source_(source),
        target_(target),
        squares_(images * target_.rows * target_.columns),
        panels_(tile_count(target_.C, columns_)),
        filters_(static_cast<std::size_t>(panels_ * panel_size())),
        start_(static_cast<std::size_t>(panels_ * columns_)),
        zeros_(static_cast<std::size_t>(std::max(source_.C, columns_))) {
    std::fill_n(zeros_.data(), zeros_.size(), 0.0f);
    std::fill_n(start_.data(), start_.size(), 0.0f);
    if (b) std::copy_n(b.data<float>(), target_.C, start_.data());
    pack_filters(w);
  }

  void run() {
    const std::int64_t block = block_squares(source_.C, target_.C);
    parallel_for(squares_, block, [&](std::int64_t begin, std::int64_t end) HWY_ATTR { run_block(begin, end, block); });
  }

 private:
  std::int64_t panel_size() const { return kPlaces * source_.C * columns_; }

  // filters_ [panel][place][source channel][columns] = G w G'; channels beyond the last are zero.
  void pack_filters(const Tensor& w) {
    const std::int64_t O = w.size(0), C = w.size(3);
    const float* pw = w.data<float>();
    if (!gradient_) {
      parallel_for(panels_, 1, [&](std::int64_t panel, std::int64_t) HWY_ATTR { pack_panel(pw, O, C, panel); });
      return;
    }
    if (C % columns_ != 0) std::fill_n(filters_.data() + (panels_ - 1) * panel_size(), panel_size(), 0.0f);
    parallel_for(O, columns_, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      for (std::int64_t out = begin; out < end; ++out) pack_flipped(pw + out * kTaps * kTaps * C, out, C);
    });
  }

  HWY_INLINE float* packed(std::int64_t target, int place, std::int64_t source) {
    return filters_.data() + target / columns_ * panel_size() + (place * source_.C + source) * columns_ +
           target % columns_;
  }

  template <class D, class V = hn::Vec<D>>
  HWY_INLINE void store_places(D d, const V (&taps)[kTaps][kTaps], std::int64_t target, std::int64_t source) {
    V u[kIn][kIn];
    transform<FilterTransform>(d, taps, u);
    for (int i = 0; i < kPlaces; ++i) hn::StoreU(u[i / kIn][i % kIn], d, packed(target, i, source));
  }

  // The filters of one panel of outputs: a few input channels at a time are turned over, so that vectors run along the
  // outputs.
  void pack_panel(const float* w, std::int64_t O, std::int64_t C, std::int64_t panel) {
    constexpr std::int64_t kChannels = 16, kSquare = kTaps * kTaps;
    const std::int64_t first = panel * columns_, outputs = std::min(columns_, O - first);
    Scratch<float> turned(static_cast<std::size_t>(kSquare * kChannels * columns_));  // [tap][channel][column]
    std::fill_n(turned.data(), turned.size(), 0.0f);
    for (std::int64_t c0 = 0; c0 < C; c0 += kChannels) {
      const std::int64_t channels = std::min(kChannels, C - c0);
      for (std::int64_t out = 0; out < outputs; ++out) {
        for (std::int64_t k = 0; k < kSquare; ++k) {
          const float* from = w + ((first + out) * kSquare + k) * C + c0;
          float* to = turned.data() + k * kChannels * columns_ + out;
          for (std::int64_t c = 0; c < channels; ++c) to[c * columns_] = from[c];
        }
      }
      for (std::int64_t c = 0; c < channels; ++c) {
        for_lanes<float>(columns_, [&](auto d, std::int64_t out) HWY_ATTR {
          hn::Vec<decltype(d)> taps[kTaps][kTaps];
          for (int k = 0; k < kSquare; ++k)
            taps[k / kTaps][k % kTaps] = hn::LoadU(d, turned.data() + (k * kChannels + c) * columns_ + out);
          store_places(d, taps, first + out, c0 + c);
        });
      }
    }
  }

  // One filter, flipped, whose input channels are the outputs of the data gradient.
  void pack_flipped(const float* w, std::int64_t source, std::int64_t C) {
    for_channels(Wide<float>(), 0, C, [&](auto d, std::int64_t c) HWY_ATTR {
      hn::Vec<decltype(d)> taps[kTaps][kTaps];
      for (int k = 0; k < kTaps * kTaps; ++k)
        taps[k / kTaps][k % kTaps] = hn::LoadU(d, w + (kTaps * kTaps - 1 - k) * C + c);
      store_places(d, taps, c, source);
    });
  }

  void run_block(std::int64_t begin, std::int64_t end, std::int64_t block) {
    const std::int64_t group = std::max<std::int64_t>(1, kGroupColumns / columns_);
    const Places in(block, source_.C), out(block, group * columns_);
    Scratch<float> v(in.size()), m(out.size());
    Scratch<typename Target::Element> nowhere(static_cast<std::size_t>(round_up(target_.C, columns_)));
    transform_squares<InputTransform>(source_, begin, end, reinterpret_cast<typename Source::Element*>(zeros_.data()),
                                      in, v.data());
    for (std::int64_t panel = 0; panel < panels_; panel += group) {
      const std::int64_t last = std::min(panels_, panel + group);
      for (std::int64_t p = panel; p < last; ++p) {
        multiply_panel(p, end - begin, in, v.data(), out, m.data() + (p - panel) * columns_);
      }
      write_squares(begin, end, panel * columns_, std::min(target_.C, last * columns_), nowhere.data(), out, m.data());
    }
  }

  // For every place, the transformed squares times one panel of filters.
  void multiply_panel(std::int64_t panel, std::int64_t squares, const Places& in, const float* v, const Places& out,
                      float* m) const {
    const std::int64_t width = std::min(columns_, target_.C - panel * columns_);
    const int vectors = static_cast<int>(tile_count(width, static_cast<std::int64_t>(hn::Lanes(Wide<float>()))));
    const Run run{0, 0, source_.C};
    for (int i = 0; i < kPlaces; ++i) {
      const float* filters = filters_.data() + panel * panel_size() + i * source_.C * columns_;
      for (std::int64_t t = 0; t < squares; t += kRows) {
        const float* a[kRows];
        float* c[kRows];
        for (int r = 0; r < kRows; ++r) {  // squares beyond the last repeat one
          a[r] = v + i * in.place + std::min(t + r, squares - 1) * in.row;
          c[r] = m + i * out.place + (t + r) * out.row;
        }
        multiply_block(vectors, a, 1, filters, columns_, &run, &run + 1, zeros_.data(), c);
      }
    }
  }

  // A' m A and the bias for the channels [first, last).
  void write_squares(std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t last,
                     typename Target::Element* nowhere, const Places& places, const float* m) const {
    for (std::int64_t t = begin; t < end; ++t, m += places.row) {
      const auto pixels = target_.locate(t, nowhere);
      for_channels(Wide<float>(), first, last, [&](auto d, std::int64_t c) HWY_ATTR {
        hn::Vec<decltype(d)> x[kIn][kIn], y[kOut][kOut];
        for (int i = 0; i < kPlaces; ++i) x[i / kIn][i % kIn] = hn::LoadU(d, m + i * places.place + c - first);
        transform<OutputTransform>(d, x, y);
        const auto start = hn::LoadU(d, start_.data() + c);
        for (auto& row : y) {
          for (auto& pixel : row) pixel = hn::Add(pixel, start);
        }
        Target::store_square(d, y, pixels, c);
      });
    }
  }

  const std::int64_t columns_ = block_columns<float>();
  const bool gradient_;
  const Source source_;
  const Target target_;
  const std::int64_t squares_, panels_;
  mutable Scratch<float> filters_, start_, zeros_;
};

void WinogradForward(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y) {
  dispatch_images(x, [&]<typename S>() HWY_ATTR {
    const std::int64_t H = y.size(1), W = y.size(2);
    Winograd(squares_of<kIn, S>(x, H, W, -o.padding), w, b, false, squares_of<kOut, S>(y, H, W, 0), y.size(0)).run();
  });
}
void WinogradBackwardData(const Tensor& dy, const Tensor& w, const Conv2dOptions& o, Tensor& dx) {
  dispatch_images(dy, [&]<typename S>() HWY_ATTR {
    const std::int64_t H = dx.size(1), W = dx.size(2);
    const auto source = squares_of<kIn, S>(dy, H, W, o.padding - 2);
    Winograd(source, w, Tensor(), true, squares_of<kOut, S>(dx, H, W, 0), dx.size(0)).run();
  });
}

// Rows and columns that no window of 2x2 covers are not computed.
void WinogradPoolForward(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y, Tensor& taps) {
  dispatch_images(x, [&]<typename S>() HWY_ATTR {
    const std::int64_t H = 2 * y.size(1), W = 2 * y.size(2);
    const auto target = pooled_squares_of<kOut, 0, S>(y, taps, H, W);
    Winograd(squares_of<kIn, S>(x, H, W, -1), w, b, false, target, y.size(0)).run();
  });
}
void WinogradPoolBackwardData(const Tensor& dy, const Tensor& taps, const Tensor& w, Tensor& dx) {
  dispatch_images(dy, [&]<typename S>() HWY_ATTR {
    const std::int64_t H = dx.size(1), W = dx.size(2);
    const auto source = pooled_squares_of<kIn, -1, S>(dy, taps, H, W);
    Winograd(source, w, Tensor(), true, squares_of<kOut, S>(dx, H, W, 0), dx.size(0)).run();
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(WinogradForward);
HWY_EXPORT(WinogradBackwardData);
HWY_EXPORT(WinogradPoolForward);
HWY_EXPORT(WinogradPoolBackwardData);

void winograd_forward(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y) {
  HWY_DYNAMIC_DISPATCH(WinogradForward)(x, w, b, o, y);
}
void winograd_backward_data(const Tensor& dy, const Tensor& w, const Conv2dOptions& o, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(WinogradBackwardData)(dy, w, o, dx);
}

void winograd_pool_forward(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y, Tensor& taps) {
  HWY_DYNAMIC_DISPATCH(WinogradPoolForward)(x, w, b, y, taps);
}
void winograd_pool_backward_data(const Tensor& dy, const Tensor& taps, const Tensor& w, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(WinogradPoolBackwardData)(dy, taps, w, dx);
}

// Multiplications by one filter for an image: of the direct sum, which leaves out the padding, and of the squares with
// about a quarter more for their transforms; and what transforming a filter costs, in multiplications.
bool winograd_suits(const Tensor& w, const Conv2dOptions& o, const Shape& source, const Shape& target) {
  constexpr std::int64_t kLeastChannels = 16, kFilterTransform = 200;
  if (w.dtype() != Dtype::float32 || w.size(1) != 3 || w.size(2) != 3) return false;
  if (o.stride != 1 || o.dilation != 1 || o.groups != 1) return false;
  if (source[3] < kLeastChannels || target[3] < kLeastChannels) return false;
  const auto taps = [](std::int64_t from, std::int64_t to) { return 3 * std::min(from, to) - (from == to ? 2 : 0); };
  const std::int64_t direct = taps(source[1], target[1]) * taps(source[2], target[2]);
  const std::int64_t squares = (target[1] + 3) / 4 * ((target[2] + 3) / 4);
  return target[0] * (direct - squares * 45) > kFilterTransform;
}

}  // namespace dattn
#endif
