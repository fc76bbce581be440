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

/// Kr rows and Kv vectors of C, held in registers while the sum over k runs.
template <int Kr, int Kv, typename D, typename T>
HWY_INLINE void product_block(D d, std::int64_t k, Strided<T> a, const T* b, std::int64_t ldb, T* c, std::int64_t ldc,
                              bool add) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  hn::Vec<D> sum[Kr][Kv];
#pragma GCC unroll 16
  for (int r = 0; r < Kr; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < Kv; ++v) sum[r][v] = add ? hn::LoadU(d, c + r * ldc + v * lanes) : hn::Zero(d);
  }
  for (std::int64_t i = 0; i < k; ++i) {
    const T* row = a.data + i * a.column;
    hn::Vec<D> right[Kv];
#pragma GCC unroll 16
    for (int v = 0; v < Kv; ++v) right[v] = hn::LoadU(d, b + i * ldb + v * lanes);
#pragma GCC unroll 16
    for (int r = 0; r < Kr; ++r) {
      const auto left = hn::Set(d, row[r * a.row]);
#pragma GCC unroll 16
      for (int v = 0; v < Kv; ++v) sum[r][v] = hn::MulAdd(left, right[v], sum[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Kr; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < Kv; ++v) hn::StoreU(sum[r][v], d, c + r * ldc + v * lanes);
  }
}

/// Kv vectors of all m rows of C.
template <int Kr, int Kv, typename D, typename T>
HWY_INLINE void product_columns(D d, std::int64_t m, std::int64_t k, Strided<T> a, const T* b, std::int64_t ldb, T* c,
                                std::int64_t ldc, bool add) {
  std::int64_t r = 0;
  for (; r + Kr <= m; r += Kr) {
    product_block<Kr, Kv>(d, k, {a.data + r * a.row, a.row, a.column}, b, ldb, c + r * ldc, ldc, add);
  }
  for (; r < m; ++r) product_block<1, Kv>(d, k, {a.data + r * a.row, a.row, a.column}, b, ldb, c + r * ldc, ldc, add);
}

/// The last columns, fewer than a full vector: by vectors of half the length, a quarter, and so on.
template <typename D, typename T>
HWY_INLINE void product_rest(D d, std::int64_t m, std::int64_t n, std::int64_t k, Strided<T> a, const T* b,
                             std::int64_t ldb, T* c, std::int64_t ldc, bool add) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t j = 0;
  if (n >= lanes) product_columns<8, 1>(d, m, k, a, b, ldb, c, ldc, add), j = lanes;
  if constexpr (hn::MaxLanes(D()) > 1) {
    if (j < n) product_rest(hn::Half<D>(), m, n - j, k, a, b + j, ldb, c + j, ldc, add);
  }
}

/// C [m,n] = A [m,k] B [k,n], or C += A B. `ldb` and `ldc` are the lengths of the stored rows.
template <typename T>
void small_product(std::int64_t m, std::int64_t n, std::int64_t k, Strided<T> a, const T* b, std::int64_t ldb, T* c,
                   std::int64_t ldc, bool add) {
  const Wide<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t j = 0;
  // Blocks of 12, 8 and 8 running sums: enough to hide the latency of a multiply-add, few enough for 16 registers.
  for (; j + 3 * lanes <= n && j + 4 * lanes != n; j += 3 * lanes) {
    product_columns<4, 3>(d, m, k, a, b + j, ldb, c + j, ldc, add);
  }
  for (; j + 2 * lanes <= n; j += 2 * lanes) product_columns<4, 2>(d, m, k, a, b + j, ldb, c + j, ldc, add);
  for (; j + lanes <= n; j += lanes) product_columns<8, 1>(d, m, k, a, b + j, ldb, c + j, ldc, add);
  if (j < n) product_rest(d, m, n - j, k, a, b + j, ldb, c + j, ldc, add);
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
