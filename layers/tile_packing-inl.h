// What layers by tile blocks share: weights and rows of bfloat16 as tiles, and sums as results. Included by kernel
// files after core/simd.h, once for each instruction set.
#if defined(DATTN_LAYERS_TILE_PACKING_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DATTN_LAYERS_TILE_PACKING_INL_H_
#undef DATTN_LAYERS_TILE_PACKING_INL_H_
#else
#define DATTN_LAYERS_TILE_PACKING_INL_H_
#endif

#include <cstdint>

#include "core/parallel.h"
#include "core/simd.h"
#include "core/tile_block.h"
#include "layers/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

constexpr std::int64_t kPanel = 2 * kTileSide;  // rows or columns of a block

/// A panel of 32 columns of B, `rows` of them (whole steps of 32), as tiles: [step][2 column tiles][16 pairs][16][2].
/// Of row i and column c comes value(i, c).
template <typename F>
void pack_panel(std::int64_t rows, F&& value, bfloat16* to) {
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t c = 0; c < kPanel; ++c) {
      const std::int64_t tile = i / kTileDepth * 2 + c / kTileSide, pair = i % kTileDepth / 2;
      to[(tile * kTileSide + pair) * kTileDepth + c % kTileSide * 2 + i % 2] = bfloat16(value(i, c));
    }
  }
}

/// to[i] = from[i], or with a bias from[i] + b[i].
inline void store_sums(const float* from, const float* b, std::int64_t n, bfloat16* to) {
  for_channels(Wide<float>(), 0, n, [&](auto d, std::int64_t i) HWY_ATTR {
    const auto sum = hn::LoadU(d, from + i);
    store(b ? hn::Add(sum, hn::LoadU(d, b + i)) : sum, d, to + i);
  });
}

/// Pairs of rows of `from` [rows, columns], element by element: to [rows / 2][step] of pairs; a last row without a
/// second one goes with zeros.
inline void interleave_rows(const bfloat16* from, std::int64_t rows, std::int64_t columns, std::int64_t step,
                            std::uint32_t* to) {
  for (std::int64_t r = 0; r < rows; r += 2, from += 2 * columns, to += step) {
    for_channels(hn::ScalableTag<std::uint32_t>(), 0, columns, [&](auto d, std::int64_t c) HWY_ATTR {
      const hn::Rebind<std::uint16_t, decltype(d)> d16;
      const auto bits = [&](const bfloat16* p) HWY_ATTR {
        return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(p + c)));
      };
      const auto even = bits(from);
      hn::StoreU(r + 1 < rows ? hn::Or(even, hn::ShiftLeft<16>(bits(from + columns))) : even, d, to + c);
    });
  }
}

/// to[column][pair], rows of `step` pairs, from [pairs, columns]: rows of tiles of A.
inline void transpose_pairs(const std::uint32_t* from, std::int64_t pairs, std::int64_t columns, std::uint32_t* to,
                            std::int64_t step) {
  transpose(reinterpret_cast<const float*>(from), columns, pairs, columns, reinterpret_cast<float*>(to), step);
}

inline const bfloat16* as_numbers(const std::uint32_t* pairs) { return reinterpret_cast<const bfloat16*>(pairs); }

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
