// CPU kernels of Winograd's F(4x4, 3x3), forward and data gradient. With the matrices B, G and A of the algorithm and d
// a square of 6x6 pixels,
//   y = A' [sum over channels of (G w G') * (B' d B)] A        (4x4 pixels)
// where * multiplies the 36 places one by one: for each place, a matrix product over channels. Squares go through in
// blocks, whose transforms stay in the cache; smaller squares at the far borders have fewer places.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/winograd_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "core/memory.h"
#include "layers/transpose-inl.h"
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
  // For `images` maps of height x width outputs, before any pooling.
  Winograd(const Source& source, const Tensor& w, const Tensor& b, bool gradient, const Target& target,
           std::int64_t images, std::int64_t height, std::int64_t width)
      : gradient_(gradient),
        source_(source),
        target_(target),
        w_(w),
        block_(block_squares(source_.C, target_.C)),
        cuts_(images, height, width, block_, images >= kMixedSquareImages),
        few_(cuts_.blocks() < kFewBlocks),
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
    parallel_for(cuts_.blocks(), 1, [&](std::int64_t index, std::int64_t) HWY_ATTR {
      Scratch<float> v(in.size()), m(out.size());
      const Block block = cuts_.block(index);
      transform_block(block, in, v.data());
      for (std::int64_t panel = 0; panel < panels_; panel += group) {
        const std::int64_t last = std::min(panels_, panel + group);
        for (std::int64_t p = panel; p < last; ++p) {
          multiply_panel(p, filters.data() + p * panel_size(), block, in, v.data(), out,
                         m.data() + (p - panel) * columns_);
        }
        write_squares(block, panel * columns_, last * columns_, out, m.data());
      }
    });
  }

  // Few squares, as of one image: panel by panel, or there would be nothing to do for more than one thread.
  void run_panels() {
    Scratch<float> flipped(gradient_ ? all_panels() : 0);
    if (gradient_) pack_flipped(flipped.data());
    const Places in(block_, source_.C), out(block_, columns_);
    Scratch<float> v(static_cast<std::size_t>(cuts_.blocks()) * in.size());
    const auto transformed = [&](std::int64_t index) { return v.data() + static_cast<std::size_t>(index) * in.size(); };
    const std::int64_t parts = tile_count(block_, kTransformed);
    parallel_for(cuts_.blocks() * parts, 1, [&](std::int64_t index, std::int64_t) HWY_ATTR {
      Block part = cuts_.block(index / parts);
      const std::int64_t first = index % parts * kTransformed;
      part.end = std::min(part.end, part.begin + first + kTransformed);
      part.begin += first;
      transform_block(part, in, transformed(index / parts) + first * in.row);
    });
    parallel_for(panels_, 1, [&](std::int64_t panel, std::int64_t) HWY_ATTR {
      Scratch<float> packed(static_cast<std::size_t>(gradient_ ? 0 : panel_size())), m(out.size());
      if (!gradient_) pack_panel(panel, packed.data());
      const float* filters = gradient_ ? flipped.data() + panel * panel_size() : packed.data();
      for (std::int64_t index = 0; index < cuts_.blocks(); ++index) {
        const Block block = cuts_.block(index);
        multiply_panel(panel, filters, block, in, transformed(index), out, m.data());
        write_squares(block, panel * columns_, (panel + 1) * columns_, out, m.data());
      }
    });
  }

  void transform_block(const Block& block, const Places& in, float* v) const {
    auto* zeros = reinterpret_cast<typename Source::Element*>(zeros_.data());
    transform_squares<InputTransform>(source_, block, zeros, in, v);
  }

  // --- filters [place][source channel][columns] of a panel, with some room between places: G w G'; channels beyond the
  // last are zero ---

  // Filter `target` of a panel at the input channel `source`.
  template <class D, class V = hn::Vec<D>>
  HWY_INLINE void store_places(D d, const V (&taps)[kTaps][kTaps], std::int64_t target, std::int64_t source,
                               float* panel) const {
    float* to = panel + source * columns_ + target;
    const std::int64_t step = place_size();  // read once: a store might be to what it is made of
    transform<FilterTransform>(
        d, [&](int i, int j) HWY_ATTR { return taps[i][j]; },
        [=](int i, int j, V v) HWY_ATTR { hn::StoreU(v, d, to + (i * kIn + j) * step); });
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
        transpose(w + k * source_.C + c0, kSquare * source_.C, outputs, channels,
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
  void multiply_panel(std::int64_t panel, const float* filters, const Block& block, const Places& in, const float* v,
                      const Places& out, float* m) const {
    const std::int64_t width = std::min(columns_, target_.C - panel * columns_);
    const int vectors = static_cast<int>(tile_count(width, lanes_));
    const Run run{0, 0, source_.C};
    for_places(block.cut, [&](int i) HWY_ATTR {
      for (std::int64_t t = 0; t < block.squares(); t += kRows) {
        const float* a[kRows];
        float* c[kRows];
        for (int r = 0; r < kRows; ++r) {  // squares beyond the last repeat one
          a[r] = v + i * in.place + std::min(t + r, block.squares() - 1) * in.row;
          c[r] = m + i * out.place + (t + r) * out.row;
        }
        multiply_block(vectors, a, 1, filters + i * place_size(), columns_, &run, &run + 1, zeros_.data(), c);
      }
    });
  }

  // A' m A and the bias for the channels [first, last) that there are.
  void write_squares(const Block& block, std::int64_t first, std::int64_t last, const Places& places,
                     const float* m) const {
    Scratch<typename Target::Element> nowhere(static_cast<std::size_t>(target_.C));
    last = std::min(last, target_.C);
    const Cut cut = block.cut;
    const std::int64_t place = places.place;
    auto next = target_.locate(cut, block.begin, nowhere.data());
    for (std::int64_t t = block.begin; t < block.end; ++t, m += places.row) {
      const auto pixels = next;
      if (t + 1 < block.end) next = target_.locate(cut, t + 1, nowhere.data());
      for_channels(Wide<float>(), first, last, [&](auto d, std::int64_t c) HWY_ATTR {
        Target::template ask_for<Access::write>(next, c);
        const float* from = m + c - first;
        const auto start = hn::LoadU(d, start_.data() + c);
        Target::store_square(d, cut, pixels, c, [&](auto put) HWY_ATTR {
          transform<OutputTransform>(
              d, cut, [=](int i, int j) HWY_ATTR { return hn::LoadU(d, from + (i * kIn + j) * place); },
              [&](int i, int j, auto v) HWY_ATTR { put(i, j, hn::Add(v, start)); });
        });
      });
    }
  }

  const std::int64_t lanes_ = static_cast<std::int64_t>(hn::Lanes(Wide<float>()));
  const bool gradient_;
  const Source source_;
  const Target target_;
  const Tensor& w_;
  const std::int64_t block_;
  const Cuts cuts_;
  const bool few_;
  const std::int64_t columns_, panels_;
  mutable Scratch<float> start_, zeros_;
};

void WinogradForward(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y) {
  dispatch_images(x, [&]<typename S>() HWY_ATTR {
    Winograd(squares_of<kIn, S>(x, -o.padding), w, b, false, squares_of<kOut, S>(y, 0), y.size(0), y.size(1), y.size(2))
        .run();
  });
}
void WinogradBackwardData(const Tensor& dy, const Tensor& w, const Conv2dOptions& o, Tensor& dx) {
  dispatch_images(dy, [&]<typename S>() HWY_ATTR {
    const auto source = squares_of<kIn, S>(dy, o.padding - 2);
    Winograd(source, w, Tensor(), true, squares_of<kOut, S>(dx, 0), dx.size(0), dx.size(1), dx.size(2)).run();
  });
}

// Rows and columns that no window of 2x2 covers are not computed.
void WinogradPoolForward(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y, Tensor& taps) {
  dispatch_images(x, [&]<typename S>() HWY_ATTR {
    const auto target = pooled_squares_of<kOut, 0, S>(y, taps);
    Winograd(squares_of<kIn, S>(x, -1), w, b, false, target, y.size(0), 2 * y.size(1), 2 * y.size(2)).run();
  });
}
void WinogradPoolBackwardData(const Tensor& dy, const Tensor& taps, const Tensor& w, Tensor& dx) {
  dispatch_images(dy, [&]<typename S>() HWY_ATTR {
    const auto source = pooled_squares_of<kIn, -1, S>(dy, taps);
    Winograd(source, w, Tensor(), true, squares_of<kOut, S>(dx, 0), dx.size(0), dx.size(1), dx.size(2)).run();
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
  const auto places = [mixed = target[0] >= kMixedSquareImages](std::int64_t n) {
    return n / 4 * 6 + (n % 4 == 0 ? 0 : mixed ? std::max<std::int64_t>(n % 4, 2) + 2 : 6);
  };
  return target[0] * (direct - places(target[1]) * places(target[2]) * 5 / 4) > filter_transform;
}

}  // namespace dattn
#endif
