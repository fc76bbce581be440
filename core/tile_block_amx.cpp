// Tile blocks by AMX instructions. Tiles 0-3 hold C, 4-5 two row tiles of A, 6-7 two column tiles of B: four products
// for four loads.
#include "core/tile_block.h"

#ifdef __AMX_BF16__

#include <immintrin.h>

namespace dattn {

namespace {

// Layout of the operand of LDTILECFG (Intel SDM, volume 1, chapter 18).
struct alignas(64) TileConfiguration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

void configure_this_thread() {
  thread_local const bool configured = [] {
    static constexpr TileConfiguration configuration;  // in memory as a whole: GCC 12 tells of its first bytes only
    _tile_loadconfig(&configuration);
    return true;
  }();
  static_cast<void>(configured);
}

// Bytes from one row to the next.
int bytes(std::int64_t elements, std::size_t size) {
  return static_cast<int>(elements * static_cast<std::int64_t>(size));
}

template <int kRowTiles, int kColumnTiles>
void multiply(const TileBlock& block) {
  const int a_bytes = bytes(block.a_stride, sizeof(bfloat16)), b_bytes = bytes(block.b_stride, sizeof(bfloat16)),
            c_bytes = bytes(block.c_stride, sizeof(float));
  float *c00 = block.c, *c01 = c00 + kTileSide, *c10 = c00 + kTileSide * block.c_stride, *c11 = c10 + kTileSide;
  if (block.add) {
    _tile_loadd(0, c00, c_bytes);
    if constexpr (kColumnTiles == 2) _tile_loadd(1, c01, c_bytes);
    if constexpr (kRowTiles == 2) _tile_loadd(2, c10, c_bytes);
    if constexpr (kRowTiles == 2 && kColumnTiles == 2) _tile_loadd(3, c11, c_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const bfloat16* b = block.b;
  for (std::int64_t s = 0; s < block.steps; ++s, b += block.b_step) {
    const bfloat16* a = block.a + block.a_offsets[s];
    _tile_loadd(4, a, a_bytes);
    _tile_loadd(6, b, b_bytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kColumnTiles == 2) {
      _tile_loadd(7, b + block.b_column, b_bytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kRowTiles == 2) {
      _tile_loadd(5, a + kTileSide * block.a_stride, a_bytes);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (kRowTiles == 2 && kColumnTiles == 2) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c00, c_bytes);
  if constexpr (kColumnTiles == 2) _tile_stored(1, c01, c_bytes);
  if constexpr (kRowTiles == 2) _tile_stored(2, c10, c_bytes);
  if constexpr (kRowTiles == 2 && kColumnTiles == 2) _tile_stored(3, c11, c_bytes);
}

void multiply_block(const TileBlock& block) {
  configure_this_thread();
  if (block.row_tiles == 2) {
    block.column_tiles == 2 ? multiply<2, 2>(block) : multiply<2, 1>(block);
  } else {
    block.column_tiles == 2 ? multiply<1, 2>(block) : multiply<1, 1>(block);
  }
}

}  // namespace

const TileBlockFunction tile_block_amx = multiply_block;

}  // namespace dattn

#else

namespace dattn {

const TileBlockFunction tile_block_amx = nullptr;

}  // namespace dattn

#endif
