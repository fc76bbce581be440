// What forward pass and filter gradient of Winograd's F(4x4, 3x3) share: images as squares of pixels, and blocks of
// squares transformed.
#if defined(DATTN_LAYERS_WINOGRAD_SQUARES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DATTN_LAYERS_WINOGRAD_SQUARES_INL_H_
#undef DATTN_LAYERS_WINOGRAD_SQUARES_INL_H_
#else
#define DATTN_LAYERS_WINOGRAD_SQUARES_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "core/parallel.h"
#include "core/prefetch.h"
#include "core/simd.h"
#include "core/tensor.h"
#include "layers/pool_taps-inl.h"
#include "layers/winograd_transforms-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

constexpr std::int64_t kLine = 16;  // floats of a cache line: rows are this much longer, or they would share few sets
constexpr std::int64_t kLeastSquares = 24, kMostSquares = 96;

// --- squares of pixels ---

/// Images [N,H,W,C] of float or bfloat16 as squares of kSide x kSide pixels (fewer in a cut of smaller ones), whose
/// pixels lie `first` from those of the outputs.
template <int kSide, typename S>
struct Squares {
  using Element = S;
  static constexpr int kMore = kSide - kOut;  // pixels along a side beyond the outputs
  S* data;
  std::int64_t H, W, C, first;

  struct Pixels {
    S* at[kSide][kSide];
  };

  // The pixels of square t; those outside the image are at `outside`.
  HWY_INLINE Pixels locate(const Cut& cut, std::int64_t t, S* outside) const {
    Pixels pixels;
    const std::int64_t h0 = cut.top + t / cut.columns % cut.rows * kOut + first,
                       w0 = cut.left + t % cut.columns * kOut + first;
    S* image = data + t / cut.squares() * H * W * C;
    for (int i = 0; i < kSide; ++i) {
      for (int j = 0; j < kSide; ++j) {
        const std::int64_t h = h0 + i, w = w0 + j;
        pixels.at[i][j] = h >= 0 && h < H && w >= 0 && w < W ? image + (h * W + w) * C : outside;
      }
    }
    return pixels;
  }

  // Asks for channels from c on of the pixels that a square does not share with those above it and to its left.
  template <Access kAccess>
  static HWY_INLINE void ask_for(const Pixels& pixels, std::int64_t c) {
    for (int i = kMore; i < kSide; ++i) {
      for (int j = kMore; j < kSide; ++j) prefetch_line<kAccess>(pixels.at[i][j] + c);
    }
  }
  // Channels [c, c + lanes) of a square: calls use(at), where at(i, j) loads a pixel.
  template <class D, class F>
  static HWY_INLINE void load_square(D d, const Cut&, const Pixels& pixels, std::int64_t c, F&& use) {
    use([&](int i, int j) HWY_ATTR { return load(d, pixels.at[i][j] + c); });
  }
  // Calls make(put), where put(i, j, v) stores a pixel.
  template <class D, class F>
  static HWY_INLINE void store_square(D d, const Cut&, const Pixels& pixels, std::int64_t c, F&& make) {
    make([&](int i, int j, hn::Vec<D> v) HWY_ATTR { store(v, d, pixels.at[i][j] + c); });
  }
};

template <int kSide, typename S>
Squares<kSide, S> squares_of(const Tensor& images, std::int64_t first) {
  return {const_cast<S*>(images.data<S>()), images.size(1), images.size(2), images.size(3), first};
}

/// Squares of images of which only the maxima of 2x2 pixels are kept, [N,H,W,C], and where those were: a square that is
/// stored is pooled; one that is loaded has every maximum in its place and zeros elsewhere. Squares begin at kFirst.
template <int kSide, int kFirst, typename S>
struct PooledSquares {
  using Element = S;
  static constexpr int kMore = kSide - kOut;
  S* data;
  std::uint8_t* taps;
  std::int64_t H, W, C;

  static constexpr int half(int i) { return (i - (i & 1)) / 2; }  // rounded down
  static constexpr int window(int i) { return half(kFirst + i) - half(kFirst); }
  static constexpr int tap(int i, int j) { return ((kFirst + i) & 1) * 2 + ((kFirst + j) & 1); }
  static constexpr int kWindows = window(kSide - 1) + 1;

  struct Pixels {
    S* at[kWindows][kWindows];
    std::uint8_t* tap[kWindows][kWindows];
  };

  HWY_INLINE Pixels locate(const Cut& cut, std::int64_t t, S* outside) const {
    Pixels pixels;
    const std::int64_t h0 = cut.top / 2 + t / cut.columns % cut.rows * (kOut / 2) + half(kFirst),
                       w0 = cut.left / 2 + t % cut.columns * (kOut / 2) + half(kFirst),
                       image = t / cut.squares() * H * W * C;
    for (int i = 0; i < kWindows; ++i) {
      for (int j = 0; j < kWindows; ++j) {
        const std::int64_t h = h0 + i, w = w0 + j, at = image + (h * W + w) * C;
        const bool inside = h >= 0 && h < H && w >= 0 && w < W;
        pixels.at[i][j] = inside ? data + at : outside;
        pixels.tap[i][j] = inside ? taps + at : reinterpret_cast<std::uint8_t*>(outside);
      }
    }
    return pixels;
  }

  // The same of windows: all, as it is few that squares share.
  template <Access kAccess>
  static HWY_INLINE void ask_for(const Pixels& pixels, std::int64_t c) {
    for (int i = 0; i < kWindows; ++i) {
      for (int j = 0; j < kWindows; ++j) {
        prefetch_line<kAccess>(pixels.at[i][j] + c);
        prefetch_line<kAccess>(pixels.tap[i][j] + c);
      }
    }
  }

  template <class D, class F>
  static HWY_INLINE void load_square(D d, const Cut& cut, const Pixels& pixels, std::int64_t c, F&& use) {
    const hn::RebindToUnsigned<D> du;
    hn::Vec<D> value[kWindows][kWindows];
    hn::Vec<decltype(du)> place[kWindows][kWindows];
    for_square<kWindows>(window(cut.height + kMore - 1) + 1, window(cut.width + kMore - 1) + 1,
                         [&](int i, int j) HWY_ATTR {
                           value[i][j] = load(d, pixels.at[i][j] + c);
                           place[i][j] = load_taps(d, pixels.tap[i][j] + c);
                         });
    use([&](int i, int j) HWY_ATTR {
      const auto here = hn::Eq(place[window(i)][window(j)], hn::Set(du, static_cast<std::uint32_t>(tap(i, j))));
      return hn::IfThenElseZero(hn::RebindMask(d, here), value[window(i)][window(j)]);
    });
  }

  template <class D, class F, class V = hn::Vec<D>>
  static HWY_INLINE void store_square(D d, const Cut& cut, const Pixels& pixels, std::int64_t c, F&& make) {
    static_assert(kFirst == 0 && kSide % 2 == 0);
    const hn::RebindToUnsigned<D> du;
    V y[kSide][kSide];
    make([&](int i, int j, V v) HWY_ATTR { y[i][j] = v; });
    for_square<kWindows>(cut.height / 2, cut.width / 2, [&](int i, int j) HWY_ATTR {
      V best = y[2 * i][2 * j];
      auto place = hn::Zero(du);
      for (int k = 1; k < 4; ++k) keep_larger(d, y[2 * i + k / 2][2 * j + k % 2], k, best, place);
      store(best, d, pixels.at[i][j] + c);
      store_taps(d, place, pixels.tap[i][j] + c);
    });
  }
};

/// `pooled` and `taps` [N,H,W,C] as squares of the images before pooling.
template <int kSide, int kFirst, typename S>
PooledSquares<kSide, kFirst, S> pooled_squares_of(const Tensor& pooled, const Tensor& taps) {
  return {const_cast<S*>(pooled.data<S>()), const_cast<std::uint8_t*>(taps.data<std::uint8_t>()), pooled.size(1),
          pooled.size(2), pooled.size(3)};
}

// Transformed squares of one block: places [36], squares, channels, with some room between.
struct Places {
  std::int64_t row, place;  // from a square to the next, from a place to the next

  Places(std::int64_t squares, std::int64_t channels)
      : row(round_up(channels, kLine) + kLine), place(squares * row + kLine) {}
  std::size_t size() const { return static_cast<std::size_t>(kPlaces * place); }
};

// M x M' of a block of squares, all channels. The pixels of the next square are asked for meanwhile.
template <class M, class From>
void transform_squares(const From& from, const Block& block, typename From::Element* zeros, const Places& places,
                       float* to) {
  const Cut cut = block.cut;
  const std::int64_t place = places.place;
  auto next = from.locate(cut, block.begin, zeros);
  for (std::int64_t t = block.begin; t < block.end; ++t, to += places.row) {
    const auto pixels = next;
    if (t + 1 < block.end) next = from.locate(cut, t + 1, zeros);
    for_channels(Wide<float>(), 0, from.C, [&](auto d, std::int64_t c) HWY_ATTR {
      From::template ask_for<Access::read>(next, c);
      From::load_square(d, cut, pixels, c, [&](auto at) HWY_ATTR {
        transform<M>(d, cut, at,
                     [=](int i, int j, auto v) HWY_ATTR { hn::StoreU(v, d, to + (i * kIn + j) * place + c); });
      });
    });
  }
}

/// Calls f(place) for the places that the squares of a cut have.
template <typename F>
void for_places(const Cut& cut, F&& f) {
  for (int i = 0; i < cut.height + 2; ++i) {
    for (int j = 0; j < cut.width + 2; ++j) f(i * kIn + j);
  }
}

/// Calls f.operator()<S>() with the type in memory of images: float or bfloat16. Between, everything is float.
template <typename F>
void dispatch_images(const Tensor& images, F&& f) {
  return images.dtype() == Dtype::bfloat16 ? f.template operator()<bfloat16>() : f.template operator()<float>();
}

// Squares of a block: as many as make their transforms about as large as what they are multiplied with, or what they
// are summed to; then neither of the two travels much more often than the other.
inline std::int64_t block_squares(std::int64_t in, std::int64_t out) {
  return round_up(std::clamp<std::int64_t>(in * out / (in + out), kLeastSquares, kMostSquares), kRows);
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
