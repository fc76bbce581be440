// What forward pass and filter gradient of Winograd's F(4x4, 3x3) share: the matrices B, G and A of the algorithm, as
// operations on vectors of channels, and images as squares of pixels.
#if defined(DATTN_LAYERS_WINOGRAD_SQUARES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DATTN_LAYERS_WINOGRAD_SQUARES_INL_H_
#undef DATTN_LAYERS_WINOGRAD_SQUARES_INL_H_
#else
#define DATTN_LAYERS_WINOGRAD_SQUARES_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "core/parallel.h"
#include "core/simd.h"
#include "core/tensor.h"
#include "layers/conv2d_block-inl.h"
#include "layers/pool_taps-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

constexpr int kIn = 6, kOut = 4, kTaps = 3, kPlaces = kIn * kIn;
constexpr std::int64_t kLine = 16;  // floats of a cache line: rows are this much longer, or they would share few sets
constexpr std::int64_t kLeastSquares = 24, kMostSquares = 96;

/// Calls f(d, c) for the channels c in [begin, end), by full vectors, then by halves, quarters and so on.
template <typename D, typename F>
HWY_INLINE void for_channels(D d, std::int64_t begin, std::int64_t end, F&& f) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (; begin + lanes <= end; begin += lanes) f(d, begin);
  if constexpr (hn::MaxLanes(D()) > 1) {
    if (begin < end) for_channels(hn::Half<D>(), begin, end, f);
  }
}

// --- the matrices, as operations on one row or column of vectors ---

// B' d, 6 to 6.
struct InputTransform {
  static constexpr int kFrom = kIn, kTo = kIn;
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void apply(D d, const V* x, V* y) {
    const V two = hn::Set(d, 2.0f), four = hn::Set(d, 4.0f), five = hn::Set(d, 5.0f);
    const V even = hn::NegMulAdd(four, x[2], x[4]), odd = hn::NegMulAdd(four, x[1], x[3]);
    const V even2 = hn::Sub(x[4], x[2]), odd2 = hn::Mul(two, hn::Sub(x[3], x[1]));
    y[0] = hn::MulAdd(four, x[0], hn::NegMulAdd(five, x[2], x[4]));
    y[1] = hn::Add(even, odd), y[2] = hn::Sub(even, odd);
    y[3] = hn::Add(even2, odd2), y[4] = hn::Sub(even2, odd2);
    y[5] = hn::MulAdd(four, x[1], hn::NegMulAdd(five, x[3], x[5]));
  }
};

// A' m, 6 to 4.
struct OutputTransform {
  static constexpr int kFrom = kIn, kTo = kOut;
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void apply(D d, const V* m, V* y) {
    const V sum1 = hn::Add(m[1], m[2]), sum2 = hn::Add(m[3], m[4]);
    const V difference1 = hn::Sub(m[1], m[2]), difference2 = hn::Sub(m[3], m[4]);
    y[0] = hn::Add(hn::Add(m[0], sum1), sum2);
    y[1] = hn::MulAdd(hn::Set(d, 2.0f), difference2, difference1);
    y[2] = hn::MulAdd(hn::Set(d, 4.0f), sum2, sum1);
    y[3] = hn::Add(hn::MulAdd(hn::Set(d, 8.0f), difference2, difference1), m[5]);
  }
};

// A dy, 4 to 6.
struct OutputGradientTransform {
  static constexpr int kFrom = kOut, kTo = kIn;
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void apply(D d, const V* y, V* z) {
    const V two = hn::Set(d, 2.0f), four = hn::Set(d, 4.0f);
    const V even = hn::Add(y[0], y[2]), odd = hn::Add(y[1], y[3]);
    const V even2 = hn::MulAdd(four, y[2], y[0]), odd2 = hn::Mul(two, hn::MulAdd(four, y[3], y[1]));
    z[0] = y[0];
    z[1] = hn::Add(even, odd), z[2] = hn::Sub(even, odd);
    z[3] = hn::Add(even2, odd2), z[4] = hn::Sub(even2, odd2);
    z[5] = y[3];
  }
};

// G w, 3 to 6.
struct FilterTransform {
  static constexpr int kFrom = kTaps, kTo = kIn;
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void apply(D d, const V* w, V* u) {
    const V sixth = hn::Set(d, 1.0f / 6), quarter = hn::Set(d, 0.25f);
    const V even = hn::Mul(sixth, hn::Add(w[0], w[2])), odd = hn::Mul(sixth, w[1]);
    const V even2 = hn::Mul(sixth, hn::MulAdd(quarter, w[0], w[2])), odd2 = hn::Mul(hn::Set(d, 0.5f), odd);
    u[0] = hn::Mul(quarter, w[0]);
    u[1] = hn::Neg(hn::Add(even, odd)), u[2] = hn::Sub(odd, even);
    u[3] = hn::Add(even2, odd2), u[4] = hn::Sub(even2, odd2);
    u[5] = w[2];
  }
};

// G' u, 6 to 3.
struct FilterGradientTransform {
  static constexpr int kFrom = kIn, kTo = kTaps;
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void apply(D d, const V* u, V* w) {
    const V sixth = hn::Set(d, 1.0f / 6), quarter = hn::Set(d, 0.25f);
    const V sum1 = hn::Add(u[1], u[2]), sum2 = hn::Add(u[3], u[4]);
    const V difference1 = hn::Sub(u[2], u[1]), difference2 = hn::Sub(u[3], u[4]);
    w[0] = hn::MulAdd(quarter, u[0], hn::Mul(sixth, hn::NegMulAdd(hn::Set(d, 1.0f), sum1, hn::Mul(quarter, sum2))));
    w[1] = hn::Mul(sixth, hn::MulAdd(hn::Set(d, 0.5f), difference2, difference1));
    w[2] = hn::MulAdd(sixth, hn::Sub(sum2, sum1), u[5]);
  }
};

/// M x M' of a square x: columns first, then rows.
template <class M, class D, class V = hn::Vec<D>>
HWY_INLINE void transform(D d, const V (&x)[M::kFrom][M::kFrom], V (&y)[M::kTo][M::kTo]) {
  V half[M::kFrom][M::kTo];  // half[j]: column j of M x
  for (int j = 0; j < M::kFrom; ++j) {
    V column[M::kFrom];
    for (int i = 0; i < M::kFrom; ++i) column[i] = x[i][j];
    M::apply(d, column, half[j]);
  }
  for (int i = 0; i < M::kTo; ++i) {
    V row[M::kFrom];
    for (int j = 0; j < M::kFrom; ++j) row[j] = half[j][i];
    M::apply(d, row, y[i]);
  }
}

// --- squares of pixels ---

/// Images [N,H,W,C] of float or bfloat16, cut into squares of kSide x kSide pixels, which begin at `first` and every 4
/// pixels.
template <int kSide, typename S>
struct Squares {
  using Element = S;
  S* data;
  std::int64_t H, W, C, rows, columns, first;  // rows and columns of squares in an image

  struct Pixels {
    S* at[kSide][kSide];
  };

  // The pixels of square t; those outside the image are at `outside`.
  HWY_INLINE Pixels locate(std::int64_t t, S* outside) const {
    Pixels pixels;
    const std::int64_t h0 = t / columns % rows * kOut + first, w0 = t % columns * kOut + first;
    S* image = data + t / columns / rows * H * W * C;
    for (int i = 0; i < kSide; ++i) {
      for (int j = 0; j < kSide; ++j) {
        const std::int64_t h = h0 + i, w = w0 + j;
        pixels.at[i][j] = h >= 0 && h < H && w >= 0 && w < W ? image + (h * W + w) * C : outside;
      }
    }
    return pixels;
  }

  // Channels [c, c + lanes) of a square.
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void load_square(D d, const Pixels& pixels, std::int64_t c, V (&x)[kSide][kSide]) {
    for (int i = 0; i < kSide; ++i) {
      for (int j = 0; j < kSide; ++j) x[i][j] = load(d, pixels.at[i][j] + c);
    }
  }
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void store_square(D d, const V (&y)[kSide][kSide], const Pixels& pixels, std::int64_t c) {
    for (int i = 0; i < kSide; ++i) {
      for (int j = 0; j < kSide; ++j) store(y[i][j], d, pixels.at[i][j] + c);
    }
  }
};

/// The sizes of the target tell how many squares there are.
template <int kSide, typename S>
Squares<kSide, S> squares_of(const Tensor& images, std::int64_t target_height, std::int64_t target_width,
                             std::int64_t first) {
  return {
      const_cast<S*>(images.data<S>()), images.size(1), images.size(2), images.size(3), tile_count(target_height, kOut),
      tile_count(target_width, kOut),   first};
}

/// Squares of images of which only the maxima of 2x2 pixels are kept, [N,H,W,C], and where those were: a square that is
/// stored is pooled; one that is loaded has every maximum in its place and zeros elsewhere. Squares begin at kFirst.
template <int kSide, int kFirst, typename S>
struct PooledSquares {
  using Element = S;
  S* data;
  std::uint8_t* taps;
  std::int64_t H, W, C, rows, columns;

  static constexpr int half(int i) { return (i - (i & 1)) / 2; }  // rounded down
  static constexpr int window(int i) { return half(kFirst + i) - half(kFirst); }
  static constexpr int tap(int i, int j) { return ((kFirst + i) & 1) * 2 + ((kFirst + j) & 1); }
  static constexpr int kWindows = window(kSide - 1) + 1;

  struct Pixels {
    S* at[kWindows][kWindows];
    std::uint8_t* tap[kWindows][kWindows];
  };

  HWY_INLINE Pixels locate(std::int64_t t, S* outside) const {
    Pixels pixels;
    const std::int64_t h0 = t / columns % rows * (kOut / 2) + half(kFirst),
                       w0 = t % columns * (kOut / 2) + half(kFirst), image = t / columns / rows * H * W * C;
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

  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void load_square(D d, const Pixels& pixels, std::int64_t c, V (&x)[kSide][kSide]) {
    const hn::RebindToUnsigned<D> du;
    V value[kWindows][kWindows];
    hn::Vec<decltype(du)> place[kWindows][kWindows];
    for (int i = 0; i < kWindows; ++i) {
      for (int j = 0; j < kWindows; ++j) {
        value[i][j] = load(d, pixels.at[i][j] + c);
        place[i][j] = load_taps(d, pixels.tap[i][j] + c);
      }
    }
    for (int i = 0; i < kSide; ++i) {
      for (int j = 0; j < kSide; ++j) {
        const auto here = hn::Eq(place[window(i)][window(j)], hn::Set(du, static_cast<std::uint32_t>(tap(i, j))));
        x[i][j] = hn::IfThenElseZero(hn::RebindMask(d, here), value[window(i)][window(j)]);
      }
    }
  }

  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void store_square(D d, const V (&y)[kSide][kSide], const Pixels& pixels, std::int64_t c) {
    static_assert(kFirst == 0 && kSide % 2 == 0);
    const hn::RebindToUnsigned<D> du;
    for (int i = 0; i < kWindows; ++i) {
      for (int j = 0; j < kWindows; ++j) {
        V best = y[2 * i][2 * j];
        auto place = hn::Zero(du);
        for (int k = 1; k < 4; ++k) keep_larger(d, y[2 * i + k / 2][2 * j + k % 2], k, best, place);
        store(best, d, pixels.at[i][j] + c);
        store_taps(d, place, pixels.tap[i][j] + c);
      }
    }
  }
};

/// `pooled` and `taps` [N,H,W,C] as squares of the images before pooling.
template <int kSide, int kFirst, typename S>
PooledSquares<kSide, kFirst, S> pooled_squares_of(const Tensor& pooled, const Tensor& taps, std::int64_t target_height,
                                                  std::int64_t target_width) {
  return {const_cast<S*>(pooled.data<S>()),
          const_cast<std::uint8_t*>(taps.data<std::uint8_t>()),
          pooled.size(1),
          pooled.size(2),
          pooled.size(3),
          tile_count(target_height, kOut),
          tile_count(target_width, kOut)};
}

// Transformed squares of one block: places [36], squares, channels, with some room between.
struct Places {
  std::int64_t row, place;  // from a square to the next, from a place to the next

  Places(std::int64_t squares, std::int64_t channels)
      : row((channels + kLine - 1) / kLine * kLine + kLine), place(squares * row + kLine) {}
  std::size_t size() const { return static_cast<std::size_t>(kPlaces * place); }
};

// M x M' of the squares [begin, end), all channels.
template <class M, class From>
void transform_squares(const From& from, std::int64_t begin, std::int64_t end, typename From::Element* zeros,
                       const Places& places, float* to) {
  for (std::int64_t t = begin; t < end; ++t, to += places.row) {
    const auto pixels = from.locate(t, zeros);
    for_channels(Wide<float>(), 0, from.C, [&](auto d, std::int64_t c) HWY_ATTR {
      hn::Vec<decltype(d)> x[M::kFrom][M::kFrom], y[M::kTo][M::kTo];
      From::load_square(d, pixels, c, x);
      transform<M>(d, x, y);
      for (int i = 0; i < kPlaces; ++i) hn::StoreU(y[i / kIn][i % kIn], d, to + i * places.place + c);
    });
  }
}

/// Calls f.operator()<S>() with the type in memory of images: float or bfloat16. Between, everything is float.
template <typename F>
void dispatch_images(const Tensor& images, F&& f) {
  return images.dtype() == Dtype::bfloat16 ? f.template operator()<bfloat16>() : f.template operator()<float>();
}

inline std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

// Squares of a block: as many as make their transforms about as large as what they are multiplied with, or what they
// are summed to; then neither of the two travels much more often than the other.
inline std::int64_t block_squares(std::int64_t in, std::int64_t out) {
  return round_up(std::clamp<std::int64_t>(in * out / (in + out), kLeastSquares, kMostSquares), kRows);
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
