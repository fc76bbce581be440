// CPU kernels of 3x3 convolutions by tiles. A frame is a few images [H,W,C] one after the other, each row with a zero
// pixel behind it and each image with a row of zeros behind it: then the pixel that tap (i, j) meets lies a fixed
// distance (i - 1)(W + 1) + j - 1 from the output's, across all borders, and 16 pixels in a row are the rows of a tile.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/conv2d_bfloat16_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "core/memory.h"
#include "core/parallel.h"
#include "core/partial_sums.h"
#include "core/simd.h"
#include "core/tile_block.h"
#include "layers/conv2d_bfloat16.h"
#include "layers/pool_taps-inl.h"
#include "layers/tile_packing-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

constexpr std::int64_t kTaps = 9;
constexpr std::int64_t kFramePixels = 512;  // of a frame, at least, where there are so many

// Sizes of maps [N,H,W] and of their frames.
struct Frames {
  std::int64_t N, H, W, row, image, images,
      count;  // row: pixels from a row to the next; image: from an image to the next

  explicit Frames(const Tensor& maps) : Frames(maps.size(0), maps.size(1), maps.size(2)) {}
  Frames(std::int64_t n, std::int64_t height, std::int64_t width)
      : N(n),
        H(height),
        W(width),
        row(W + 1),
        image((H + 1) * row),
        images(std::clamp<std::int64_t>(kFramePixels / image, 1, std::max<std::int64_t>(1, N))),
        count(tile_count(N, images)) {}

  std::int64_t pixels() const { return round_up(images * image, kPanel); }
  /// Zeros before the first image: a row and a pixel, in whole pairs.
  std::int64_t lead() const { return round_up(row + 1, 2); }
  std::int64_t all_pixels() const { return lead() + pixels() + round_up(row + 3, kPanel); }
  std::int64_t tap(std::int64_t k) const { return lead() + (k / 3 - 1) * row + k % 3 - 1; }
  std::int64_t last_image(std::int64_t frame) const { return std::min(N, (frame + 1) * images); }
};

// --- images into frames ---

// Images as they are.
struct PlainImages {
  const Tensor& x;  // [N,H,W,C]

  void fill(const Frames& f, std::int64_t n, std::int64_t depth, bfloat16* frame) const {
    const std::int64_t C = x.size(3);
    const bfloat16* from = x.data<bfloat16>() + n * f.H * f.W * C;
    for (std::int64_t h = 0; h < f.H; ++h) {
      for (std::int64_t w = 0; w < f.W; ++w) std::copy_n(from + (h * f.W + w) * C, C, frame + (h * f.row + w) * depth);
    }
  }
};

// Gradients of pooled images, each at the place of its maximum.
struct PooledImages {
  const Tensor &dy, &taps;  // [N,H/2,W/2,C]

  void fill(const Frames& f, std::int64_t n, std::int64_t depth, bfloat16* frame) const {
    const std::int64_t H = dy.size(1), W = dy.size(2), C = dy.size(3);
    const bfloat16* from = dy.data<bfloat16>() + n * H * W * C;
    const std::uint8_t* tap = taps.data<std::uint8_t>() + n * H * W * C;
    for (std::int64_t h = 0; h < H; ++h) {
      for (std::int64_t w = 0; w < W; ++w, from += C, tap += C) {
        bfloat16* window = frame + (2 * h * f.row + 2 * w) * depth;
        for_channels(Wide<float>(), 0, C, [&](auto d, std::int64_t c) HWY_ATTR {
          const hn::RebindToUnsigned<decltype(d)> du;
          const auto value = load(d, from + c);
          const auto place = load_taps(d, tap + c);
          for (std::int64_t k = 0; k < 4; ++k) {
            const auto here = hn::RebindMask(d, hn::Eq(place, hn::Set(du, static_cast<std::uint32_t>(k))));
            store(hn::IfThenElseZero(here, value), d, window + (k / 2 * f.row + k % 2) * depth + c);
          }
        });
      }
    }
  }
};

// The images of one frame; what is no pixel is zero. `depth`: room for channels.
template <class Images>
void fill_frame(const Images& images, const Frames& f, std::int64_t frame, std::int64_t depth, bfloat16* pixels) {
  std::fill_n(pixels, f.all_pixels() * depth, bfloat16());
  for (std::int64_t n = frame * f.images; n < f.last_image(frame); ++n) {
    images.fill(f, n, depth, pixels + (f.lead() + n % f.images * f.image) * depth);
  }
}

// --- sums into images ---

// Image n of y [N,H,W,C] from sums [pixels of the image][depth] and a bias [C], or null.
struct PlainResult {
  Tensor& y;

  void write(const Frames& f, std::int64_t n, const float* sums, std::int64_t depth, const float* b) const {
    const std::int64_t C = y.size(3);
    bfloat16* to = y.data<bfloat16>() + n * f.H * f.W * C;
    for (std::int64_t h = 0; h < f.H; ++h) {
      for (std::int64_t w = 0; w < f.W; ++w, to += C) {
        store_sums(sums + (h * f.row + w) * depth, b, C, to);
      }
    }
  }
};

// The same, pooled: y and taps [N,H/2,W/2,C].
struct PooledResult {
  Tensor &y, &taps;

  void write(const Frames& f, std::int64_t n, const float* sums, std::int64_t depth, const float* b) const {
    const std::int64_t H = y.size(1), W = y.size(2), C = y.size(3);
    bfloat16* to = y.data<bfloat16>() + n * H * W * C;
    std::uint8_t* tap = taps.data<std::uint8_t>() + n * H * W * C;
    for (std::int64_t h = 0; h < H; ++h) {
      for (std::int64_t w = 0; w < W; ++w, to += C, tap += C) {
        const float* window = sums + (2 * h * f.row + 2 * w) * depth;
        for_channels(Wide<float>(), 0, C, [&](auto d, std::int64_t c) HWY_ATTR {
          auto best = hn::LoadU(d, window + c);
          auto place = hn::Zero(hn::RebindToUnsigned<decltype(d)>());
          for (int k = 1; k < 4; ++k)
            keep_larger(d, hn::LoadU(d, window + (k / 2 * f.row + k % 2) * depth + c), k, best, place);
          store(b ? hn::Add(best, hn::LoadU(d, b + c)) : best, d, to + c);
          store_taps(d, place, tap + c);
        });
      }
    }
  }
};

// --- forward and data gradient ---

// Filters in panels of targets: [panel][tap][sources], zeros beyond the last channel. For the data gradient the kernel
// is flipped and its channels are exchanged.
class PackedFilters {
 public:
  PackedFilters(const Tensor& w, bool gradient, std::int64_t sources, std::int64_t targets)
      : depth_(round_up(sources, kTileDepth)),
        panels_(tile_count(targets, kPanel)),
        data_(static_cast<std::size_t>(panels_ * panel_size())) {
    const float* from = w.data<float>();
    parallel_for(panels_, 1, [&](std::int64_t panel, std::int64_t) {
      for (std::int64_t k = 0; k < kTaps; ++k) {
        const auto weight = [&](std::int64_t s, std::int64_t c) {
          const std::int64_t t = panel * kPanel + c;
          if (s >= sources || t >= targets) return 0.0f;
          return from[gradient ? (s * kTaps + kTaps - 1 - k) * targets + t : (t * kTaps + k) * sources + s];
        };
        pack_panel(depth_, weight, data_.data() + panel * panel_size() + k * depth_ * kPanel);
      }
    });
  }

  std::int64_t panels() const { return panels_; }
  std::int64_t steps() const { return kTaps * depth_ / kTileDepth; }
  const bfloat16* panel(std::int64_t i) { return data_.data() + i * panel_size(); }

 private:
  std::int64_t panel_size() const { return kTaps * depth_ * kPanel; }

  std::int64_t depth_, panels_;
  Scratch<bfloat16> data_;
};

template <class Images, class Result>
void convolve(const Images& images, const Frames& f, const Tensor& w, const Tensor& b, bool gradient,
              const Result& result) {
  const std::int64_t sources = w.size(gradient ? 0 : 3), targets = w.size(gradient ? 3 : 0);
  const std::int64_t depth = round_up(sources, kTileDepth), width = round_up(targets, kPanel);
  PackedFilters filters(w, gradient, sources, targets);
  Scratch<std::int64_t> offsets(static_cast<std::size_t>(filters.steps()));
  for (std::int64_t s = 0; s < filters.steps(); ++s) {
    const std::int64_t steps_of_tap = depth / kTileDepth;
    offsets.data()[s] = f.tap(s / steps_of_tap) * depth + s % steps_of_tap * kTileDepth;
  }
  const TileBlockFunction multiply = tile_block();
  parallel_for(f.count, 1, [&](std::int64_t frame, std::int64_t) {
    Scratch<bfloat16> pixels(static_cast<std::size_t>(f.all_pixels() * depth));
    Scratch<float> sums(static_cast<std::size_t>(f.pixels() * width));
    fill_frame(images, f, frame, depth, pixels.data());
    for (std::int64_t panel = 0; panel < filters.panels(); ++panel) {
      for (std::int64_t p = 0; p < f.pixels(); p += kPanel) {
        multiply({2, 2, pixels.data() + p * depth, depth, offsets.data(), filters.panel(panel), kTileDepth,
                  kTileSide * kTileDepth, 2 * kTileSide * kTileDepth, filters.steps(),
                  sums.data() + p * width + panel * kPanel, width, false});
      }
    }
    for (std::int64_t n = frame * f.images; n < f.last_image(frame); ++n)
      result.write(f, n, sums.data() + n % f.images * f.image * width, width, b ? b.data<float>() : nullptr);
  });
}

// --- filter gradient ---

// dw [O,3,3,C] += the sum over pixels of dy [pixel, o] x [pixel + tap, c]: frames in a fixed number of parts, each with
// a sum [tap][o][c] of its own.
template <class Gradients>
class Bfloat16FilterGradient {
 public:
  Bfloat16FilterGradient(const Gradients& dy, std::int64_t outputs, const Tensor& x, Tensor& dw)
      : f_(x),
        dy_(dy),
        x_{x},
        O_(outputs),
        C_(x.size(3)),
        rows_(round_up(O_, kPanel)),
        depth_(round_up(C_, kPanel)),
        dw_(dw.data<float>()) {}

  void run() const {
    const std::int64_t size = kTaps * rows_ * depth_;
    const std::int64_t most = std::clamp<std::int64_t>(kPartsNumbers / size, kLeastParts, kMostParts);
    PartialSums<float> sums(f_.count, part_length(f_.count, 1, most), size);
    sums.gather([&](std::int64_t begin, std::int64_t end, float* sum) {
      for (std::int64_t frame = begin; frame < end; ++frame) add_frame(frame, sum);
    });
    parallel_for(O_, 8, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin * kTaps; i < end * kTaps; ++i) {
        const float* first = sums.part(0) + (i % kTaps * rows_ + i / kTaps) * depth_;
        for (std::int64_t c = 0; c < C_; ++c) {
          float sum = 0;
          for (std::int64_t p = 0; p < sums.parts(); ++p) sum += first[p * size + c];
          dw_[i * C_ + c] += sum;
        }
      }
    });
  }

 private:
  static constexpr std::int64_t kPartsNumbers = 4 << 20, kLeastParts = 4, kMostParts = 16;

  void add_frame(std::int64_t frame, float* sum) const {
    const std::int64_t pixels = f_.pixels(), pairs = (f_.all_pixels() - 2) / 2;
    Scratch<bfloat16> source(static_cast<std::size_t>(f_.all_pixels() * std::max(depth_, rows_)));
    Scratch<std::uint32_t> pairs_of_dy(static_cast<std::size_t>(pixels / 2 * rows_)), dy(pairs_of_dy.size());
    Scratch<std::uint32_t> x(
        static_cast<std::size_t>(2 * pairs * depth_));  // from an even pixel on, and from an odd one
    fill_frame(dy_, f_, frame, rows_, source.data());
    interleave_rows(source.data() + f_.lead() * rows_, pixels, rows_, rows_, pairs_of_dy.data());
    transpose_pairs(pairs_of_dy.data(), pixels / 2, rows_, dy.data(), pixels / 2);
    fill_frame(x_, f_, frame, depth_, source.data());
    interleave_rows(source.data(), 2 * pairs, depth_, depth_, x.data());
    interleave_rows(source.data() + depth_, 2 * pairs, depth_, depth_, x.data() + pairs * depth_);
    Scratch<std::int64_t> offsets(static_cast<std::size_t>(pixels / kTileDepth));
    for (std::int64_t s = 0; s < pixels / kTileDepth; ++s) offsets.data()[s] = s * kTileDepth;
    const TileBlockFunction multiply = tile_block();
    for (std::int64_t k = 0; k < kTaps; ++k) {
      const std::int64_t first = f_.tap(k);
      const bfloat16* b = as_numbers(x.data() + (first % 2 * pairs + first / 2) * depth_);
      for (std::int64_t c = 0; c < depth_; c += kPanel) {
        for (std::int64_t o = 0; o < rows_; o += kPanel) {
          multiply({2, 2, as_numbers(dy.data() + o * pixels / 2), pixels, offsets.data(), b + 2 * c, 2 * depth_,
                    kTileDepth, kTileSide * 2 * depth_, pixels / kTileDepth, sum + (k * rows_ + o) * depth_ + c, depth_,
                    true});
        }
      }
    }
  }

  const Frames f_;
  const Gradients dy_;
  const PlainImages x_;
  const std::int64_t O_, C_, rows_, depth_;
  float* dw_;
};

void Conv2dBfloat16Forward(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y) {
  convolve(PlainImages{x}, Frames(x), w, b, false, PlainResult{y});
}
void Conv2dBfloat16BackwardData(const Tensor& dy, const Tensor& w, Tensor& dx) {
  convolve(PlainImages{dy}, Frames(dx), w, Tensor(), true, PlainResult{dx});
}
void Conv2dBfloat16BackwardFilter(const Tensor& dy, const Tensor& x, Tensor& dw) {
  Bfloat16FilterGradient(PlainImages{dy}, dy.size(3), x, dw).run();
}

void Conv2dBfloat16PoolForward(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y, Tensor& taps) {
  convolve(PlainImages{x}, Frames(x), w, b, false, PooledResult{y, taps});
}
void Conv2dBfloat16PoolBackwardData(const Tensor& dy, const Tensor& taps, const Tensor& w, Tensor& dx) {
  convolve(PooledImages{dy, taps}, Frames(dx), w, Tensor(), true, PlainResult{dx});
}
void Conv2dBfloat16PoolBackwardFilter(const Tensor& dy, const Tensor& taps, const Tensor& x, Tensor& dw) {
  Bfloat16FilterGradient(PooledImages{dy, taps}, dy.size(3), x, dw).run();
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(Conv2dBfloat16Forward);
HWY_EXPORT(Conv2dBfloat16BackwardData);
HWY_EXPORT(Conv2dBfloat16BackwardFilter);
HWY_EXPORT(Conv2dBfloat16PoolForward);
HWY_EXPORT(Conv2dBfloat16PoolBackwardData);
HWY_EXPORT(Conv2dBfloat16PoolBackwardFilter);

void conv2d_bfloat16_forward(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y) {
  HWY_DYNAMIC_DISPATCH(Conv2dBfloat16Forward)(x, w, b, y);
}
void conv2d_bfloat16_backward_data(const Tensor& dy, const Tensor& w, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(Conv2dBfloat16BackwardData)(dy, w, dx);
}
void conv2d_bfloat16_backward_filter(const Tensor& dy, const Tensor& x, Tensor& dw) {
  HWY_DYNAMIC_DISPATCH(Conv2dBfloat16BackwardFilter)(dy, x, dw);
}
void conv2d_bfloat16_pool_forward(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y, Tensor& taps) {
  HWY_DYNAMIC_DISPATCH(Conv2dBfloat16PoolForward)(x, w, b, y, taps);
}
void conv2d_bfloat16_pool_backward_data(const Tensor& dy, const Tensor& taps, const Tensor& w, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(Conv2dBfloat16PoolBackwardData)(dy, taps, w, dx);
}
void conv2d_bfloat16_pool_backward_filter(const Tensor& dy, const Tensor& taps, const Tensor& x, Tensor& dw) {
  HWY_DYNAMIC_DISPATCH(Conv2dBfloat16PoolBackwardFilter)(dy, taps, x, dw);
}

bool conv2d_bfloat16_suits(const Tensor& images, const Tensor& w, const Conv2dOptions& o) {
  constexpr std::int64_t kLeastChannels = 16;
  return images.dtype() == Dtype::bfloat16 && w.size(1) == 3 && w.size(2) == 3 && o.stride == 1 && o.padding == 1 &&
         o.dilation == 1 && o.groups == 1 && std::min(w.size(0), w.size(3)) >= kLeastChannels &&
         images.elements() > 0 && fast_tile_block() != nullptr;
}

}  // namespace dattn
#endif
