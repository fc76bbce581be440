// Transposed copies of matrices, by squares of 4 x 4 floats. Included by kernel files after core/simd.h, once for each
// instruction set.
#if defined(DATTN_LAYERS_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DATTN_LAYERS_TRANSPOSE_INL_H_
#undef DATTN_LAYERS_TRANSPOSE_INL_H_
#else
#define DATTN_LAYERS_TRANSPOSE_INL_H_
#endif

#include <cstdint>
#include <type_traits>

#include "core/simd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

#if HWY_TARGET != HWY_SCALAR
/// Four vectors of blocks of four floats: element k of block b of vector r becomes element r of block b of vector k.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void transpose_blocks(D d, V (&v)[4]) {
  const hn::Repartition<double, D> pairs;
  const auto low01 = hn::BitCast(pairs, hn::InterleaveLower(d, v[0], v[1])),
             high01 = hn::BitCast(pairs, hn::InterleaveUpper(d, v[0], v[1])),
             low23 = hn::BitCast(pairs, hn::InterleaveLower(d, v[2], v[3])),
             high23 = hn::BitCast(pairs, hn::InterleaveUpper(d, v[2], v[3]));
  v[0] = hn::BitCast(d, hn::InterleaveLower(pairs, low01, low23));
  v[1] = hn::BitCast(d, hn::InterleaveUpper(pairs, low01, low23));
  v[2] = hn::BitCast(d, hn::InterleaveLower(pairs, high01, high23));
  v[3] = hn::BitCast(d, hn::InterleaveUpper(pairs, high01, high23));
}
#endif

/// to[c * to_step + r] = from[r * from_step + c].
template <typename T>
void transpose(const T* from, std::int64_t from_step, std::int64_t rows, std::int64_t columns, T* to,
               std::int64_t to_step) {
  std::int64_t r = 0;
#if HWY_TARGET != HWY_SCALAR
  if constexpr (std::is_same_v<T, float>) {
    const hn::FixedTag<float, 4> d;
    for (; r + 4 <= rows; r += 4, from += 4 * from_step, to += 4) {
      std::int64_t c = 0;
      for (; c + 4 <= columns; c += 4) {
        hn::Vec<decltype(d)> square[4];
        for (std::int64_t k = 0; k < 4; ++k) square[k] = hn::LoadU(d, from + k * from_step + c);
        transpose_blocks(d, square);
        for (std::int64_t k = 0; k < 4; ++k) hn::StoreU(square[k], d, to + (c + k) * to_step);
      }
      for (; c < columns; ++c) {
        for (std::int64_t i = 0; i < 4; ++i) to[c * to_step + i] = from[i * from_step + c];
      }
    }
  }
#endif
  for (; r < rows; ++r, from += from_step, ++to) {
    for (std::int64_t c = 0; c < columns; ++c) to[c * to_step] = from[c];
  }
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
