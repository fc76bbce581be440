// Matrices turned over on the way into a kernel's own memory. Included by kernel files after core/simd.h, once for each
// instruction set.
#if defined(DATTN_LAYERS_TURN_OVER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DATTN_LAYERS_TURN_OVER_INL_H_
#undef DATTN_LAYERS_TURN_OVER_INL_H_
#else
#define DATTN_LAYERS_TURN_OVER_INL_H_
#endif

#include <cstdint>
#include <type_traits>

#include "core/simd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

/// to[c * to_step + r] = from[r * from_step + c]: columns of `from` become rows of `to`. In float by squares of 4 x 4.
template <typename T>
void turn_over(const T* from, std::int64_t from_step, std::int64_t rows, std::int64_t columns, T* to,
               std::int64_t to_step) {
  std::int64_t r = 0;
#if HWY_TARGET != HWY_SCALAR
  if constexpr (std::is_same_v<T, float>) {
    const hn::FixedTag<float, 4> d;
    const hn::FixedTag<double, 2> pairs;
    for (; r + 4 <= rows; r += 4, from += 4 * from_step, to += 4) {
      std::int64_t c = 0;
      for (; c + 4 <= columns; c += 4) {
        const auto row0 = hn::LoadU(d, from + c), row1 = hn::LoadU(d, from + from_step + c),
                   row2 = hn::LoadU(d, from + 2 * from_step + c), row3 = hn::LoadU(d, from + 3 * from_step + c);
        const auto low01 = hn::BitCast(pairs, hn::InterleaveLower(d, row0, row1)),
                   high01 = hn::BitCast(pairs, hn::InterleaveUpper(d, row0, row1)),
                   low23 = hn::BitCast(pairs, hn::InterleaveLower(d, row2, row3)),
                   high23 = hn::BitCast(pairs, hn::InterleaveUpper(d, row2, row3));
        hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, low01, low23)), d, to + c * to_step);
        hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, low01, low23)), d, to + (c + 1) * to_step);
        hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, high01, high23)), d, to + (c + 2) * to_step);
        hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, high01, high23)), d, to + (c + 3) * to_step);
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
