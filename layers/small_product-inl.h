// Products of matrices small enough for the first-level cache, C = A B or C += A B: rows of B and C are vectors,
// elements of A are broadcast, so A may be stored in either order. Included by kernel files after core/simd.h, once for
// each instruction set.
#if defined(DATTN_LAYERS_SMALL_PRODUCT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DATTN_LAYERS_SMALL_PRODUCT_INL_H_
#undef DATTN_LAYERS_SMALL_PRODUCT_INL_H_
#else
#define DATTN_LAYERS_SMALL_PRODUCT_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include "core/simd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

/// A matrix of which element (r, c) lies at data[r * row + c * column].
template <typename T>
struct Strided {
  const T* data;
  std::int64_t row, column;
};

/// The right side of a product and its result, rows of `ldb` and `ldc` elements. Before a vector of C is stored it goes
/// through finish(d, vector, row, column).
template <typename T, typename F>
struct ProductSides {
  const T* b;
  std::int64_t ldb;
  T* c;
  std::int64_t ldc;
  bool add;
  F finish;  // by value: what it points to must not be looked up again after every store
};

/// Leaves a vector of C as it is.
struct AsItIs {
  template <typename D, typename V>
  HWY_INLINE V operator()(D, V sum, std::int64_t /*row*/, std::int64_t /*column*/) const {
    return sum;
  }
};

/// kGroup neighbours, again and again along a vector.
template <int kGroup, typename D, typename T>
HWY_INLINE hn::Vec<D> repeat(D d, const T* from) {
  if constexpr (kGroup == 1) {
    return hn::Set(d, *from);
  } else if constexpr (kGroup * sizeof(T) == 8) {
    const hn::Repartition<double, D> pairs;
    double pair;
    std::memcpy(&pair, from, sizeof(pair));
    return hn::BitCast(d, hn::Set(pairs, pair));
  } else {
    static_assert(kGroup * sizeof(T) == 16);
    return hn::LoadDup128(d, from);
  }
}

/// Kr rows of C from row r and Kv vectors from column j, held in registers while the sum over k runs. A step of the sum
/// takes kGroup neighbours of A's row: lanes l of a vector of B belong to neighbour l % kGroup.
template <int Kr, int Kv, int kGroup = 1, typename D, typename T, typename F>
HWY_INLINE void product_block(D d, std::int64_t r, std::int64_t j, std::int64_t k, Strided<T> a,
                              const ProductSides<T, F>& to) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const T *left = a.data + r * a.row, *right = to.b + j;
  T* c = to.c + r * to.ldc + j;
  hn::Vec<D> sum[Kr][Kv];
#pragma GCC unroll 16
  for (int y = 0; y < Kr; ++y) {
#pragma GCC unroll 16
    for (int v = 0; v < Kv; ++v) sum[y][v] = to.add ? hn::LoadU(d, c + y * to.ldc + v * lanes) : hn::Zero(d);
  }
  for (std::int64_t i = 0; i < k; ++i) {
    hn::Vec<D> row[Kv];
#pragma GCC unroll 16
    for (int v = 0; v < Kv; ++v) row[v] = hn::LoadU(d, right + i * to.ldb + v * lanes);
#pragma GCC unroll 16
    for (int y = 0; y < Kr; ++y) {
      const auto element = repeat<kGroup>(d, left + i * a.column + y * a.row);
#pragma GCC unroll 16
      for (int v = 0; v < Kv; ++v) sum[y][v] = hn::MulAdd(element, row[v], sum[y][v]);
    }
  }
#pragma GCC unroll 16
  for (int y = 0; y < Kr; ++y) {
#pragma GCC unroll 16
    for (int v = 0; v < Kv; ++v) {
      hn::StoreU(to.finish(d, sum[y][v], r + y, j + v * lanes), d, c + y * to.ldc + v * lanes);
    }
  }
}

/// Kv vectors of all m rows of C, from column j.
template <int Kr, int Kv, int kGroup = 1, typename D, typename T, typename F>
HWY_INLINE void product_columns(D d, std::int64_t m, std::int64_t j, std::int64_t k, Strided<T> a,
                                const ProductSides<T, F>& to) {
  std::int64_t r = 0;
  for (; r + Kr <= m; r += Kr) product_block<Kr, Kv, kGroup>(d, r, j, k, a, to);
  for (; r < m; ++r) product_block<1, Kv, kGroup>(d, r, j, k, a, to);
}

/// The last columns, from j to n, fewer than a full vector: by vectors of half the length, a quarter, and so on.
template <typename D, typename T, typename F>
HWY_INLINE void product_rest(D d, std::int64_t m, std::int64_t j, std::int64_t n, std::int64_t k, Strided<T> a,
                             const ProductSides<T, F>& to) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  if (j + lanes <= n) product_columns<8, 1>(d, m, j, k, a, to), j += lanes;
  if constexpr (hn::MaxLanes(D()) > 1) {
    if (j < n) product_rest(hn::Half<D>(), m, j, n, k, a, to);
  }
}

/// C [m,n] = finish(A [m,k] B [k,n]), or finish(C + A B).
template <typename T, typename F = AsItIs>
void small_product(std::int64_t m, std::int64_t n, std::int64_t k, Strided<T> a, const T* b, std::int64_t ldb, T* c,
                   std::int64_t ldc, bool add, const F& finish = {}) {
  const Wide<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const ProductSides<T, F> to{b, ldb, c, ldc, add, finish};
  std::int64_t j = 0;
  // Blocks of 12, 8 and 8 running sums: enough to hide the latency of a multiply-add, few enough for 16 registers.
  for (; j + 3 * lanes <= n && j + 4 * lanes != n; j += 3 * lanes) product_columns<4, 3>(d, m, j, k, a, to);
  for (; j + 2 * lanes <= n; j += 2 * lanes) product_columns<4, 2>(d, m, j, k, a, to);
  for (; j + lanes <= n; j += lanes) product_columns<8, 1>(d, m, j, k, a, to);
  if (j < n) product_rest(d, m, j, n, k, a, to);
}

/// Sums over k of products with rows shorter than a vector, kGroup of them together: C [m,L] += A B, where A's rows
/// have k elements, L is the length of a vector, and lane l of row i of B [k / kGroup, L] belongs to element kGroup i +
/// l % kGroup of a row of A. What the lanes l / kGroup have in common is then one sum.
template <int kGroup, typename T>
void grouped_product(std::int64_t m, std::int64_t k, const T* a, std::int64_t lda, const T* b, T* c) {
  const Wide<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const ProductSides<T, AsItIs> to{b, lanes, c, lanes, true, {}};
  product_columns<8, 1, kGroup>(d, m, 0, k / kGroup, Strided<T>{a, lda, kGroup}, to);
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
