// The inner product of convolutions and linear layers: a block of 6 rows by up to kVectors vectors of columns, held in
// registers. Included once for each instruction set, like core/simd.h.
#if defined(DATTN_LAYERS_MULTIPLY_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DATTN_LAYERS_MULTIPLY_BLOCK_INL_H_
#undef DATTN_LAYERS_MULTIPLY_BLOCK_INL_H_
#else
#define DATTN_LAYERS_MULTIPLY_BLOCK_INL_H_
#endif

#include <cstdint>

#include "core/simd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

/// A stretch of a sum: `length` steps from place `a` of the rows' factors and place `b` of the columns'.
struct Run {
  std::int64_t a, b, length;
};

constexpr int kRows = 6;
// With 16 registers 12 are sums, 2 hold columns, 1 a row; with 32 registers 24, 4 and 1.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SCALAR
constexpr int kVectors = 2;
#else
constexpr int kVectors = 4;
#endif

/// Columns of a full block.
template <typename T>
HWY_INLINE std::int64_t block_columns() {
  return kVectors * static_cast<std::int64_t>(hn::Lanes(Wide<T>()));
}

/// c[m][0 .. V lanes) = start + sum over all runs and their steps i of a[m][run.a + i * a_step] * b[run.b + i * b_step
/// + ...], where start is the vector of columns at `start`, or c itself where `start` is null.
template <int V, typename T>
HWY_INLINE void multiply_block(const T* const* a, std::int64_t a_step, const T* b, std::int64_t b_step, const Run* run,
                               const Run* end, const T* start, T* const* c) {
  const Wide<T> d;
  const std::size_t L = hn::Lanes(d);
  hn::Vec<Wide<T>> sum[kRows][V];
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < V; ++v) sum[m][v] = hn::LoadU(d, (start ? start : c[m]) + v * L);
  }
  for (; run < end; ++run) {
    const T *a0 = a[0] + run->a, *a1 = a[1] + run->a, *a2 = a[2] + run->a;
    const T *a3 = a[3] + run->a, *a4 = a[4] + run->a, *a5 = a[5] + run->a;
    const T* pb = b + run->b;
    std::int64_t i = 0;
    for (std::int64_t left = run->length; left > 0; --left, i += a_step, pb += b_step) {
      hn::Vec<Wide<T>> column[V];
      for (int v = 0; v < V; ++v) column[v] = hn::LoadU(d, pb + v * L);
      const auto row = [&](const T* p, int m) HWY_ATTR {
        const auto factor = hn::Set(d, p[i]);
        for (int v = 0; v < V; ++v) sum[m][v] = hn::MulAdd(factor, column[v], sum[m][v]);
      };
      row(a0, 0), row(a1, 1), row(a2, 2), row(a3, 3), row(a4, 4), row(a5, 5);
    }
  }
  for (int m = 0; m < kRows; ++m) {
    for (int v = 0; v < V; ++v) hn::StoreU(sum[m][v], d, c[m] + v * L);
  }
}

/// The same with the number of vectors given at run time, 1 to kVectors.
template <typename T>
HWY_INLINE void multiply_block(int vectors, const T* const* a, std::int64_t a_step, const T* b, std::int64_t b_step,
                               const Run* run, const Run* end, const T* start, T* const* c) {
  if (vectors == 1) return multiply_block<1>(a, a_step, b, b_step, run, end, start, c);
  if constexpr (kVectors == 2) return multiply_block<2>(a, a_step, b, b_step, run, end, start, c);
  if (vectors == 2) return multiply_block<2>(a, a_step, b, b_step, run, end, start, c);
  if (vectors == 3) return multiply_block<3>(a, a_step, b, b_step, run, end, start, c);
  multiply_block<kVectors>(a, a_step, b, b_step, run, end, start, c);
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
