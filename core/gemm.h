// Matrix products through OpenBLAS, row-major.
#pragma once

#include <cstdint>

namespace dattn {

enum class Trans : bool { no, yes };

/// C = alpha op(A) op(B) + beta C in the calling thread. op(A) is [m,k], op(B) [k,n], C [m,n]; lda, ldb, ldc are the
/// lengths of the stored rows. For T = float or double. For use inside the tiles of a parallel loop.
template <typename T>
void gemm_tile(Trans ta, Trans tb, std::int64_t m, std::int64_t n, std::int64_t k, T alpha, const T* a,
               std::int64_t lda, const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc);

/// The same product over all threads: the rows or columns of C, whichever are more, in tiles that depend on the sizes
/// alone. A product with a long sum and a small C (a Gram matrix) is split along the sum into a fixed number of
/// parts.
template <typename T>
void gemm(Trans ta, Trans tb, std::int64_t m, std::int64_t n, std::int64_t k, T alpha, const T* a, std::int64_t lda,
          const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc);

}  // namespace dattn
