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
#include "layers/turn_over-inl.h"
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
        w_(w),
        squares_(images * target_.rows * target_.columns),
        block_(block_squares(source_.C, target_.C)),
        few_(tile_count(squares_, block_) < kFewBlocks),
        columns_(few_ ? std::min(block_columns<float>(), kFewVectors * lanes_) : block_columns<float>()),
        panels_(tile_count(target_.C, columns_)),
        start_(static_cast<std::size_t>(panels_ * columns_)),
        zeros_(static_cast<std::size_t>(std::max(source_.C, columns_))) {
    std::fill_n(zeros_.data(), zeros_.size(), 0.0f);
    std::fill_n(start_.data(), start_.size(), 0.0f);
    if (b) std::copy_n(b.data<float>(), target_.C, start_.data());
  }

  void run() { few_ ? run_panels() : run_blocks(); }

 private:
  static constexpr std::int64_t kFewBlocks = 4, kFewVectors = 2;
  static constexpr std::int64_t kTransformed = 4;  // squares of few, at a time
  static constexpr std::int64_t kTurned = 16;      // input channels of filters, at a time

  std::int64_t place_size() const { return source_.C * columns_ + kLine; }
  std::int64_t panel_size() const { return kPlaces * place_size(); }
  std::size_t all_panels() const { return static_cast<std::size_t>(panels_ * panel_size()); }

  // Many squares: block by block, with the filters of all panels.
  void run_blocks() {
    Scratch<float> filters(all_panels());
    gradient_ ? pack_flipped(filters.data()) : pack_panels(filters.data());
    const std::int64_t group = std::max<std::int64_t>(1, kGroupColumns / columns_);
    const Places in(block_, source_.C), out(block_, group * columns_);
    parallel_for(squares_, block_, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      Scratch<float> v(in.size()), m(out.size());
      transform_block(begin, end, in, v.data());
      for (std::int64_t panel = 0; panel < panels_; panel += group) {
        const std::int64_t last = std::min(panels_, panel + group);
        for (std::int64_t p = panel; p < last; ++p) {
          multiply_panel(p, filters.data() + p * panel_size(), end - begin, in, v.data(), out,
                         m.data() + (p - panel) * columns_);
        }
        write_squares(begin, end, panel * columns_, last * columns_, out, m.data());
      }
    });
  }

  // Few squares, as of one image: panel by panel, or there would be nothing to do for more than one thread.
  void run_panels() {
    Scratch<float> flipped(gradient_ ? all_panels() : 0);
    if (gradient_) pack_flipped(flipped.data());
    const Places in(squares_, source_.C), out(block_, columns_);
    Scratch<float> v(in.size());
    parallel_for(squares_, kTransformed, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      transform_block(begin, end, in, v.data() + begin * in.row);
    });
    parallel_for(panels_, 1, [&](std::int64_t panel, std::int64_t) HWY_ATTR {
      Scratch<float> packed(static_cast<std::size_t>(gradient_ ? 0 : panel_size())), m(out.size());
      if (!gradient_) pack_panel(panel, packed.data());
      const float* filters = gradient_ ? flipped.data() + panel * panel_size() : packed.data();
      for (std::int64_t begin = 0; begin < squares_; begin += block_) {
        const std::int64_t end = std::min(squares_, begin + block_);
        multiply_panel(panel, filters, end - begin, in, v.data() + begin * in.row, out, m.data());
        write_squares(begin, end, panel * columns_, (panel + 1) * columns_, out, m.data());
      }
    });
  }

  void transform_block(std::int64_t begin, std::int64_t end, const Places& in, float* v) const {
    auto* zeros = reinterpret_cast<typename Source::Element*>(zeros_.data());
    transform_squares<InputTransform>(source_, begin, end, zeros, in, v);
  }

  // --- filters [place][source channel][columns] of a panel, with some room between places: G w G'; channels beyond the
  // last are zero ---

  // Filter `target` of a panel at the input channel `source`.
  template <class D, class V = hn::Vec<D>>
  HWY_INLINE void store_places(D d, const V (&taps)[kTaps][kTaps], std::int64_t target, std::int64_t source,
                               float* panel) const {
    V u[kIn][kIn];
    transform<FilterTransform>(d, taps, u);
    float* to = panel + source * columns_ + target;
    for (int i = 0; i < kPlaces; ++i) hn::StoreU(u[i / kIn][i % kIn], d, to + i * place_size());
  }

  void pack_panels(float* filters) const {
    parallel_for(panels_, 1,
                 [&](std::int64_t panel, std::int64_t) HWY_ATTR { pack_panel(panel, filters + panel * panel_size()); });
  }

  // A few input channels at a time are turned over, so that vectors run along the outputs.
  void pack_panel(std::int64_t panel, float* filters) const {
    constexpr std::int64_t kSquare = kTaps * kTaps;
    const std::int64_t first = panel * columns_, outputs = std::min(columns_, target_.C - first);
    Scratch<float> turned(static_cast<std::size_t>(kSquare * kTurned * columns_));  // [tap][channel][column]
    std::fill_n(turned.data(), turned.size(), 0.0f);
    const float* w = w_.data<float>() + first * kSquare * source_.C;
    for (std::int64_t c0 = 0; c0 < source_.C; c0 += kTurned) {
      const std::int64_t channels = std::min(kTurned, source_.C - c0);
      for (std::int64_t k = 0; k < kSquare; ++k) {
        turn_over(w + k * source_.C + c0, kSquare * source_.C, outputs, channels,
                  turned.data() + k * kTurned * columns_, columns_);
      }
      for (std::int64_t c = 0; c < channels; ++c) {
        for_lanes<float>(columns_, [&](auto d, std::int64_t out) HWY_ATTR {
          hn::Vec<decltype(d)> taps[kTaps][kTaps];
          for (int k = 0; k < kSquare; ++k)
            taps[k / kTaps][k % kTaps] = hn::LoadU(d, turned.data() + (k * kTurned + c) * columns_ + out);
          store_places(d, taps, out, c0 + c, filters);
        });
      }
    }
  }

  // All panels of the data gradient. A filter, flipped, has its input channels as outputs.
  void pack_flipped(float* filters) const {
    const std::int64_t C = target_.C;
    if (C % columns_ != 0) std::fill_n(filters + (panels_ - 1) * panel_size(), panel_size(), 0.0f);
    parallel_for(source_.C, 16, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      for (std::int64_t source = begin; source < end; ++source) {
        const float* w = w_.data<float>() + source * kTaps * kTaps * C;
        for_channels(Wide<float>(), 0, C, [&](auto d, std::int64_t c) HWY_ATTR {
          hn::Vec<decltype(d)> taps[kTaps][kTaps];
          for (int k = 0; k < kTaps * kTaps; ++k)
            taps[k / kTaps][k % kTaps] = hn::LoadU(d, w + (kTaps * kTaps - 1 - k) * C + c);
          store_places(d, taps, c % columns_, source, filters + c / columns_ * panel_size());
        });
      }
    });
  }

  // For every place, the transformed squares times one panel of filters.
  void multiply_panel(std::int64_t panel, const float* filters, std::int64_t squares, const Places& in, const float* v,
                      const Places& out, float* m) const {
    const std::int64_t width = std::min(columns_, target_.C - panel * columns_);
    const int vectors = static_cast<int>(tile_count(width, lanes_));
    const Run run{0, 0, source_.C};
    for (int i = 0; i < kPlaces; ++i, filters += place_size()) {
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

  // A' m A and the bias for the channels [first, last) that there are.
  void write_squares(std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t last, const Places& places,
                     const float* m) const {
    Scratch<typename Target::Element> nowhere(static_cast<std::size_t>(target_.C));
    last = std::min(last, target_.C);
    for (std::int64_t t = begin; t < end; ++t, m += places.row) {
      const auto pixels = target_.locate(t, nowhere.data());
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

  const std::int64_t lanes_ = static_cast<std::int64_t>(hn::Lanes(Wide<float>()));
  const bool gradient_;
  const Source source_;
  const Target target_;
  const Tensor& w_;
  const std::int64_t squares_, block_;
  const bool few_;
  const std::int64_t columns_, panels_;
  mutable Scratch<float> start_, zeros_;
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
  constexpr std::int64_t kLeastChannels = 16, kCached = 1 << 18;  // filters that stay in the cache, transformed
  const std::int64_t filter_transform = w.elements() <= kCached ? 200 : 700;
  if (w.dtype() != Dtype::float32 || w.size(1) != 3 || w.size(2) != 3) return false;
  if (o.stride != 1 || o.dilation != 1 || o.groups != 1) return false;
  if (source[3] < kLeastChannels || target[3] < kLeastChannels) return false;
  const auto taps = [](std::int64_t from, std::int64_t to) { return 3 * std::min(from, to) - (from == to ? 2 : 0); };
  const std::int64_t direct = taps(source[1], target[1]) * taps(source[2], target[2]);
  const std::int64_t squares = (target[1] + 3) / 4 * ((target[2] + 3) / 4);
  return target[0] * (direct - squares * 45) > filter_transform;
}

}  // namespace dattn
#endif
