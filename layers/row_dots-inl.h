// Products of rows with rows, x w', as sums over vectors of both: neither side is packed, so a filter bank or a weight
// matrix that meets few rows is read once, as it lies. Included by kernel files after core/simd.h, once for each
// instruction set.
#if defined(DATTN_LAYERS_ROW_DOTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DATTN_LAYERS_ROW_DOTS_INL_H_
#undef DATTN_LAYERS_ROW_DOTS_INL_H_
#else
#define DATTN_LAYERS_ROW_DOTS_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/simd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

/// A block of sums: with 16 registers 12 are sums, 3 hold rows of x, 1 one of w.
constexpr int kDotRows = 3, kDotOutputs = 4;

/// Sums of one row of x with a block's rows of w. Lane l of a sum is that of the terms l, l + lanes, l + 2 lanes, ...
template <typename T>
struct DotSums {
  T lanes[kDotOutputs * HWY_MAX_BYTES / sizeof(T)];
};

// The first n numbers of a vector, and zeros. Nothing behind them is read, as it may lie outside of any memory.
template <class D, typename S>
HWY_INLINE hn::Vec<D> load_first(D d, std::int64_t n, const S* from) {
  if constexpr (std::is_same_v<S, hn::TFromD<D>> && !HWY_MEM_OPS_MIGHT_FAULT) {
    return hn::MaskedLoad(hn::FirstN(d, static_cast<std::size_t>(n)), d, from);
  } else {
    S numbers[hn::MaxLanes(D())] = {};
    std::copy_n(from, n, numbers);
    return load(d, numbers);
  }
}

/// sums[r] = or += the products of n numbers of the rows x[r] and w[0] to w[kDotOutputs - 1].
template <int kRowsHere, typename S, typename T>
HWY_INLINE void add_dots(bool add, std::int64_t n, const S* const* x, const T* const* w, DotSums<T>* const* sums) {
  const Wide<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t rest = n % lanes, whole = n - rest;
  // The rest comes first and leaves its sums in memory: were it to add to the block below, the compiler would keep that
  // in memory as well.
  for (int r = 0; rest > 0 && r < kRowsHere; ++r) {
    const auto row = load_first(d, rest, x[r] + whole);
    for (int o = 0; o < kDotOutputs; ++o) {
      T* sum = sums[r]->lanes + o * lanes;
      const auto product = hn::Mul(row, load_first(d, rest, w[o] + whole));
      hn::StoreU(add ? hn::Add(hn::LoadU(d, sum), product) : product, d, sum);
    }
  }
  add = add || rest > 0;

  hn::Vec<Wide<T>> sum[kRowsHere][kDotOutputs];
  for (int r = 0; r < kRowsHere; ++r) {
    for (int o = 0; o < kDotOutputs; ++o) sum[r][o] = add ? hn::LoadU(d, sums[r]->lanes + o * lanes) : hn::Zero(d);
  }
  for (std::int64_t i = 0; i < whole; i += lanes) {
    hn::Vec<Wide<T>> row[kRowsHere];
    for (int r = 0; r < kRowsHere; ++r) row[r] = load(d, x[r] + i);
    for (int o = 0; o < kDotOutputs; ++o) {
      const auto factor = load(d, w[o] + i);
      for (int r = 0; r < kRowsHere; ++r) sum[r][o] = hn::MulAdd(row[r], factor, sum[r][o]);
    }
  }
  for (int r = 0; r < kRowsHere; ++r) {
    for (int o = 0; o < kDotOutputs; ++o) hn::StoreU(sum[r][o], d, sums[r]->lanes + o * lanes);
  }
}

/// The same for any number of rows: row(i, x, sums) tells those of row i.
template <typename S, typename T, typename F>
HWY_INLINE void add_row_dots(bool add, std::int64_t rows, std::int64_t n, const T* const* w, F&& row) {
  const S* x[kDotRows];
  DotSums<T>* sums[kDotRows];
  std::int64_t i = 0;
  for (; i + kDotRows <= rows; i += kDotRows) {
    for (std::int64_t r = 0; r < kDotRows; ++r) row(i + r, x[r], sums[r]);
    add_dots<kDotRows>(add, n, x, w, sums);
  }
  static_assert(kDotRows == 3);
  for (std::int64_t r = 0; r < rows - i; ++r) row(i + r, x[r], sums[r]);
  if (rows - i == 2) add_dots<2>(add, n, x, w, sums);
  if (rows - i == 1) add_dots<1>(add, n, x, w, sums);
}

#if HWY_TARGET != HWY_SCALAR
// to[0 .. 4) = the sum of the blocks of four floats of v.
template <class D>
HWY_INLINE void store_block_sum(D d, hn::Vec<D> v, float* to) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    hn::StoreU(v, d, to);
  } else {
    const hn::Half<D> half;
    store_block_sum(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), to);
  }
}
#endif

/// y[o] = start[o] + the lanes of sum o, for the first `outputs` sums of a row; start may be null.
template <typename S, typename T>
HWY_INLINE void store_dots(const DotSums<T>& sums, const T* start, std::int64_t outputs, S* y) {
  const Wide<T> d;
  const std::size_t lanes = hn::Lanes(d);
  T total[kDotOutputs];
#if HWY_TARGET != HWY_SCALAR
  if constexpr (std::is_same_v<T, float>) {
    const hn::Repartition<double, Wide<T>> pairs;
    const auto load_sum = [&](std::size_t o) HWY_ATTR { return hn::LoadU(d, sums.lanes + o * lanes); };
    const auto a = load_sum(0), b = load_sum(1), c = load_sum(2), e = load_sum(3);
    const auto ab = hn::BitCast(pairs, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
    const auto ce = hn::BitCast(pairs, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
    const auto blocks = hn::Add(hn::BitCast(d, hn::InterleaveLower(pairs, ab, ce)),
                                hn::BitCast(d, hn::InterleaveUpper(pairs, ab, ce)));  // sums of a to e in each block
    store_block_sum(d, blocks, total);
  } else
#endif
  {
    for (std::size_t o = 0; o < kDotOutputs; ++o) {
      total[o] = hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, sums.lanes + o * lanes)));
    }
  }
  for (std::int64_t o = 0; o < outputs; ++o) y[o] = static_cast<S>(start ? total[o] + start[o] : total[o]);
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
