// Winograd's F(4x4, 3x3): how maps are cut into squares, and the matrices B, G and A of the algorithm as operations on
// vectors of channels. Squares at the far borders may be smaller, F(3, 3) or F(2, 3) along a side: they use the first
// of the same points, so that one transformed filter serves them all. Included by kernel files after core/simd.h, once
// for each instruction set.
#if defined(DATTN_LAYERS_WINOGRAD_TRANSFORMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DATTN_LAYERS_WINOGRAD_TRANSFORMS_INL_H_
#undef DATTN_LAYERS_WINOGRAD_TRANSFORMS_INL_H_
#else
#define DATTN_LAYERS_WINOGRAD_TRANSFORMS_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/parallel.h"
#include "core/simd.h"
#include "layers/multiply_block-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

constexpr int kIn = 6, kOut = 4, kTaps = 3, kPlaces = kIn * kIn;

// --- squares of several sizes ---

/// Squares of one size in all images: the pixels of outputs that each has, 2 to 4 a side, the first pixel of the first,
/// and how many there are in an image; from each to the next it is 4 pixels.
struct Cut {
  int height = kOut, width = kOut;
  std::int64_t top = 0, left = 0, rows = 0, columns = 0;

  std::int64_t squares() const { return rows * columns; }
};

/// The squares [begin, end) of a cut: those of image 0, of image 1 and so on, row by row.
struct Block {
  Cut cut;
  std::int64_t begin, end;

  std::int64_t squares() const { return end - begin; }
};

/// How `images` maps of height x width outputs are cut into squares, and these taken in blocks: squares of 4x4, and
/// where there are many images, smaller ones for what is left at the far borders, which would be padding else.
class Cuts {
 public:
  Cuts(std::int64_t images, std::int64_t height, std::int64_t width, std::int64_t block, bool mixed)
      : images_(images), block_(block) {
    if (!mixed) {
      add({.rows = tile_count(height, kOut), .columns = tile_count(width, kOut)});
      return;
    }
    const auto rest = [](std::int64_t n) { return static_cast<int>(n % kOut == 1 ? 2 : n % kOut); };
    const Cut whole{.rows = height / kOut, .columns = width / kOut};
    Cut right = whole, bottom = whole;
    right.width = rest(width), right.left = whole.columns * kOut, right.columns = right.width ? 1 : 0;
    bottom.height = rest(height), bottom.top = whole.rows * kOut, bottom.rows = bottom.height ? 1 : 0;
    Cut corner = bottom;
    corner.width = right.width, corner.left = right.left, corner.columns = right.columns;
    for (const Cut& cut : {whole, right, bottom, corner}) add(cut);
  }

  std::int64_t blocks() const { return blocks_; }
  Block block(std::int64_t index) const {
    int i = 0;
    while (index >= blocks_of(cuts_[i])) index -= blocks_of(cuts_[i++]);
    const std::int64_t begin = index * block_;
    return {cuts_[i], begin, std::min(images_ * cuts_[i].squares(), begin + block_)};
  }

 private:
  std::int64_t blocks_of(const Cut& cut) const { return tile_count(images_ * cut.squares(), block_); }
  void add(const Cut& cut) {
    if (cut.squares() == 0) return;
    cuts_[count_++] = cut;
    blocks_ += blocks_of(cut);
  }

  std::int64_t images_, block_, blocks_ = 0;
  int count_ = 0;
  Cut cuts_[4];
};

// --- the matrices, as operations on one row or column of vectors ---
//
// Places along a side are the points 0, 1, -1, infinity, 2, -2, of which a square of n outputs has the first n + 2. The
// filter's transform has the constants of n = 4 (for finite points, one over the product of the distances to the
// others); in B' for smaller n, factors make up for the difference.

// B' d, n + 2 to n + 2.
struct InputTransform {
  static constexpr int kFrom = kIn, kTo = kIn;
  static constexpr int from(int n) { return n + 2; }
  static constexpr int to(int n) { return n + 2; }

  template <int n, class D, class V = hn::Vec<D>>
  static HWY_INLINE void apply(D d, const V* x, V* y) {
    const V two = hn::Set(d, 2.0f), three = hn::Set(d, 3.0f), four = hn::Set(d, 4.0f);
    if constexpr (n == 4) {
      const V five = hn::Set(d, 5.0f);
      const V even = hn::NegMulAdd(four, x[2], x[4]), odd = hn::NegMulAdd(four, x[1], x[3]);
      const V even2 = hn::Sub(x[4], x[2]), odd2 = hn::Mul(two, hn::Sub(x[3], x[1]));
      y[0] = hn::MulAdd(four, x[0], hn::NegMulAdd(five, x[2], x[4]));
      y[1] = hn::Add(even, odd), y[2] = hn::Sub(even, odd);
      y[3] = hn::MulAdd(four, x[1], hn::NegMulAdd(five, x[3], x[5]));
      y[4] = hn::Add(even2, odd2), y[5] = hn::Sub(even2, odd2);
    } else if constexpr (n == 3) {
      const V difference = hn::Sub(x[3], x[1]);
      y[0] = hn::Mul(two, hn::MulAdd(two, hn::Sub(x[0], x[2]), difference));
      y[1] = hn::Mul(three, hn::NegMulAdd(two, x[1], hn::Sub(x[3], x[2])));
      y[2] = hn::MulAdd(two, x[1], hn::NegMulAdd(three, x[2], x[3]));
      y[3] = hn::NegMulAdd(two, difference, hn::Sub(x[4], x[2]));
      y[4] = hn::Mul(four, difference);
    } else {
      y[0] = hn::Mul(four, hn::Sub(x[0], x[2]));
      y[1] = hn::Mul(hn::Neg(three), hn::Add(x[1], x[2]));
      y[2] = hn::Mul(three, hn::Sub(x[1], x[2]));
      y[3] = hn::Sub(x[3], x[1]);
    }
  }
};

// A' m, n + 2 to n.
struct OutputTransform {
  static constexpr int kFrom = kIn, kTo = kOut;
  static constexpr int from(int n) { return n + 2; }
  static constexpr int to(int n) { return n; }

  template <int n, class D, class V = hn::Vec<D>>
  static HWY_INLINE void apply(D d, const V* m, V* y) {
    const V two = hn::Set(d, 2.0f), four = hn::Set(d, 4.0f);
    const V sum1 = hn::Add(m[1], m[2]), difference1 = hn::Sub(m[1], m[2]);
    if constexpr (n == 4) {
      const V sum2 = hn::Add(m[4], m[5]), difference2 = hn::Sub(m[4], m[5]);
      y[0] = hn::Add(hn::Add(m[0], sum1), sum2);
      y[1] = hn::MulAdd(two, difference2, difference1);
      y[2] = hn::MulAdd(four, sum2, sum1);
      y[3] = hn::Add(hn::MulAdd(hn::Set(d, 8.0f), difference2, difference1), m[3]);
    } else if constexpr (n == 3) {
      y[0] = hn::Add(hn::Add(m[0], sum1), m[4]);
      y[1] = hn::MulAdd(two, m[4], difference1);
      y[2] = hn::Add(hn::MulAdd(four, m[4], sum1), m[3]);
    } else {
      y[0] = hn::Add(m[0], sum1);
      y[1] = hn::Add(difference1, m[3]);
    }
  }
};

// A dy, n to n + 2.
struct OutputGradientTransform {
  static constexpr int kFrom = kOut, kTo = kIn;
  static constexpr int from(int n) { return n; }
  static constexpr int to(int n) { return n + 2; }

  template <int n, class D, class V = hn::Vec<D>>
  static HWY_INLINE void apply(D d, const V* y, V* z) {
    const V two = hn::Set(d, 2.0f), four = hn::Set(d, 4.0f);
    z[0] = y[0];
    if constexpr (n == 4) {
      const V even = hn::Add(y[0], y[2]), odd = hn::Add(y[1], y[3]);
      const V even2 = hn::MulAdd(four, y[2], y[0]), odd2 = hn::Mul(two, hn::MulAdd(four, y[3], y[1]));
      z[1] = hn::Add(even, odd), z[2] = hn::Sub(even, odd);
      z[4] = hn::Add(even2, odd2), z[5] = hn::Sub(even2, odd2);
    } else if constexpr (n == 3) {
      const V even = hn::Add(y[0], y[2]);
      z[1] = hn::Add(even, y[1]), z[2] = hn::Sub(even, y[1]);
      z[4] = hn::MulAdd(four, y[2], hn::MulAdd(two, y[1], y[0]));
    } else {
      z[1] = hn::Add(y[0], y[1]), z[2] = hn::Sub(y[0], y[1]);
    }
    z[3] = y[n - 1];
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
    u[3] = w[2];
    u[4] = hn::Add(even2, odd2), u[5] = hn::Sub(even2, odd2);
  }
};

// G' u, 6 to 3.
struct FilterGradientTransform {
  static constexpr int kFrom = kIn, kTo = kTaps;
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void apply(D d, const V* u, V* w) {
    const V sixth = hn::Set(d, 1.0f / 6), quarter = hn::Set(d, 0.25f);
    const V sum1 = hn::Add(u[1], u[2]), sum2 = hn::Add(u[4], u[5]);
    const V difference1 = hn::Sub(u[2], u[1]), difference2 = hn::Sub(u[4], u[5]);
    w[0] = hn::MulAdd(quarter, u[0], hn::Mul(sixth, hn::NegMulAdd(hn::Set(d, 1.0f), sum1, hn::Mul(quarter, sum2))));
    w[1] = hn::Mul(sixth, hn::MulAdd(hn::Set(d, 0.5f), difference2, difference1));
    w[2] = hn::MulAdd(sixth, hn::Sub(sum2, sum1), u[3]);
  }
};

// x comes from at(i, j) and goes to put(i, j, v) number by number: only what is between the two, M x, is ever in
// arrays, which with 36 vectors are memory.

/// M x M' of a filter x: columns first, then rows.
template <class M, class D, class At, class Put>
HWY_INLINE void transform(D d, At&& at, Put&& put) {
  hn::Vec<D> half[M::kFrom][M::kTo];  // half[j]: column j of M x
#pragma GCC unroll 6
  for (int j = 0; j < M::kFrom; ++j) {
    hn::Vec<D> column[M::kFrom];
#pragma GCC unroll 6
    for (int i = 0; i < M::kFrom; ++i) column[i] = at(i, j);
    M::apply(d, column, half[j]);
  }
#pragma GCC unroll 6
  for (int i = 0; i < M::kTo; ++i) {
    hn::Vec<D> row[M::kFrom], y[M::kTo];
#pragma GCC unroll 6
    for (int j = 0; j < M::kFrom; ++j) row[j] = half[j][i];
    M::apply(d, row, y);
#pragma GCC unroll 6
    for (int j = 0; j < M::kTo; ++j) put(i, j, y[j]);
  }
}

/// Calls f with n as an integral constant.
template <typename F>
HWY_INLINE void with_outputs(int n, F&& f) {
  if (n == 4) return f(std::integral_constant<int, 4>());
  if (n == 3) return f(std::integral_constant<int, 3>());
  f(std::integral_constant<int, 2>());
}

/// M x M' of a square of a cut. All loops are unrolled, up to where a smaller square ends.
template <class M, class D, class At, class Put>
HWY_INLINE void transform(D d, const Cut& cut, At&& at, Put&& put) {
  hn::Vec<D> half[M::kFrom][M::kTo];
  with_outputs(cut.height, [&](auto n) HWY_ATTR {
#pragma GCC unroll 6
    for (int j = 0; j < M::kFrom; ++j) {
      if (j == M::from(cut.width)) break;
      hn::Vec<D> column[M::from(n)];
      for (int i = 0; i < M::from(n); ++i) column[i] = at(i, j);
      M::template apply<n>(d, column, half[j]);
    }
  });
  with_outputs(cut.width, [&](auto n) HWY_ATTR {
#pragma GCC unroll 6
    for (int i = 0; i < M::kTo; ++i) {
      if (i == M::to(cut.height)) break;
      hn::Vec<D> row[M::from(n)], y[M::to(n)];
      for (int j = 0; j < M::from(n); ++j) row[j] = half[j][i];
      M::template apply<n>(d, row, y);
      for (int j = 0; j < M::to(n); ++j) put(i, j, y[j]);
    }
  });
}

/// Calls f(i, j) for the rows and columns of a square of `side` pixels or places, up to where a smaller one ends.
template <int side, typename F>
HWY_INLINE void for_square(int rows, int columns, F&& f) {
#pragma GCC unroll 6
  for (int i = 0; i < side; ++i) {
    if (i == rows) break;
#pragma GCC unroll 6
    for (int j = 0; j < side; ++j) {
      if (j == columns) break;
      f(i, j);
    }
  }
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
