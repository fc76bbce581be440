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

/// Kr rows of C from row r and Kv vectors from column j, held in registers while the sum over k runs.
template <int Kr, int Kv, typename D, typename T, typename F>
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
      const auto element = hn::Set(d, left[i * a.column + y * a.row]);
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
template <int Kr, int Kv, typename D, typename T, typename F>
HWY_INLINE void product_columns(D d, std::int64_t m, std::int64_t j, std::int64_t k, Strided<T> a,
                                const ProductSides<T, F>& to) {
  std::int64_t r = 0;
  for (; r + Kr <= m; r += Kr) product_block<Kr, Kv>(d, r, j, k, a, to);
  for (; r < m; ++r) product_block<1, Kv>(d, r, j, k, a, to);
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

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
