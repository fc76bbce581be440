// Matrix products: OpenBLAS with one thread inside fixed tiles.
#include "core/gemm.h"

#include <cblas.h>

#include <algorithm>
#include <type_traits>

#include "core/memory.h"
#include "core/parallel.h"

namespace dattn {

namespace {

// OpenBLAS's own threads stay off: the pool is ours.
const bool single_threaded = (openblas_set_num_threads(1), true);

CBLAS_TRANSPOSE blas(Trans t) { return t == Trans::yes ? CblasTrans : CblasNoTrans; }
blasint blas(std::int64_t n) { return static_cast<blasint>(n); }

constexpr std::int64_t kTileRows =
    256;  // rows or columns of C in a tile: the packing of the other side stays small beside it
constexpr std::int64_t kSplit = 8;             // parts of a split sum
constexpr std::int64_t kLongSum = 2048;        // a sum this long is split where C is small
constexpr std::int64_t kSmallProduct = 32768;  // multiply-adds under which a fork costs more than it brings

// C = alpha op(A) op(B) + beta C with the sum in kSplit parts, added in order.
template <typename T>
void gemm_split(Trans ta, Trans tb, std::int64_t m, std::int64_t n, std::int64_t k, T alpha, const T* a,
                std::int64_t lda, const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc) {
  Scratch<T> parts(static_cast<std::size_t>(kSplit * m * n));
  const std::int64_t part = tile_count(k, kSplit);
  parallel_for(kSplit, 1, [&](std::int64_t s, std::int64_t) {
    const std::int64_t begin = std::min(k, s * part), length = std::min(k, begin + part) - begin;
    gemm_tile<T>(ta, tb, m, n, length, alpha, a + begin * (ta == Trans::yes ? lda : 1), lda,
                 b + begin * (tb == Trans::yes ? 1 : ldb), ldb, 0, parts.data() + s * m * n, n);
  });
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      T sum = 0;
      for (std::int64_t s = 0; s < kSplit; ++s) sum += parts[static_cast<std::size_t>((s * m + i) * n + j)];
      c[i * ldc + j] = beta == T(0) ? sum : sum + beta * c[i * ldc + j];
    }
  }
}

// C = beta C, what is left of the product where the sum has no terms; OpenBLAS would multiply something by 0.
template <typename T>
void scale(std::int64_t m, std::int64_t n, T beta, T* c, std::int64_t ldc) {
  for (std::int64_t i = 0; i < m; ++i) {
    for (T *x = c + i * ldc, *end = x + n; x < end; ++x) *x = beta == T(0) ? T(0) : beta * *x;
  }
}

}  // namespace

template <typename T>
void gemm_tile(Trans ta, Trans tb, std::int64_t m, std::int64_t n, std::int64_t k, T alpha, const T* a,
               std::int64_t lda, const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc) {
  if (m == 0 || n == 0) return;
  if (k == 0) return scale(m, n, beta, c, ldc);
  if constexpr (std::is_same_v<T, float>) {
    cblas_sgemm(CblasRowMajor, blas(ta), blas(tb), blas(m), blas(n), blas(k), alpha, a, blas(lda), b, blas(ldb), beta,
                c, blas(ldc));
  } else {
    cblas_dgemm(CblasRowMajor, blas(ta), blas(tb), blas(m), blas(n), blas(k), alpha, a, blas(lda), b, blas(ldb), beta,
                c, blas(ldc));
  }
}

template <typename T>
void gemm(Trans ta, Trans tb, std::int64_t m, std::int64_t n, std::int64_t k, T alpha, const T* a, std::int64_t lda,
          const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc) {
  if (m * n * k <= kSmallProduct) return gemm_tile(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  if (k >= kLongSum && std::max(m, n) <= 4 * kTileRows)
    return gemm_split(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  if (m >= n) {
    const std::int64_t tile = std::min(kTileRows, (m + 7) / 8);
    parallel_for(m, tile, [&](std::int64_t begin, std::int64_t end) {
      gemm_tile(ta, tb, end - begin, n, k, alpha, a + begin * (ta == Trans::yes ? 1 : lda), lda, b, ldb, beta,
                c + begin * ldc, ldc);
    });
  } else {
    const std::int64_t tile = std::min(kTileRows, (n + 7) / 8);
    parallel_for(n, tile, [&](std::int64_t begin, std::int64_t end) {
      gemm_tile(ta, tb, m, end - begin, k, alpha, a, lda, b + begin * (tb == Trans::yes ? ldb : 1), ldb, beta,
                c + begin, ldc);
    });
  }
}

template void gemm_tile<float>(Trans, Trans, std::int64_t, std::int64_t, std::int64_t, float, const float*,
                               std::int64_t, const float*, std::int64_t, float, float*, std::int64_t);
template void gemm_tile<double>(Trans, Trans, std::int64_t, std::int64_t, std::int64_t, double, const double*,
                                std::int64_t, const double*, std::int64_t, double, double*, std::int64_t);
template void gemm<float>(Trans, Trans, std::int64_t, std::int64_t, std::int64_t, float, const float*, std::int64_t,
                          const float*, std::int64_t, float, float*, std::int64_t);
template void gemm<double>(Trans, Trans, std::int64_t, std::int64_t, std::int64_t, double, const double*, std::int64_t,
                           const double*, std::int64_t, double, double*, std::int64_t);

}  // namespace dattn
