// Blocks of matrix products in bfloat16 by tile instructions (Intel AMX), by AVX-512's dot products of pairs, and by
// plain code for the tests.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace dattn {

// A tile holds 16 rows of 32 bfloat16 numbers, or of 16 floats. Tiles of the left factor are rows of its matrix; tiles
// of the right one are 16 pairs of its rows, element by element: row j holds b[2j][0], b[2j+1][0], b[2j][1], ...
inline constexpr std::int64_t kTileSide = 16;   // rows of a tile, and columns of a tile of floats
inline constexpr std::int64_t kTileDepth = 32;  // terms of the sum that one instruction adds

/// c [16 row_tiles, 16 column_tiles] (+)= the sum over steps of A_s B_s, 32 terms each. Distances are in elements.
struct TileBlock {
  int row_tiles, column_tiles;  ///< 1 or 2 each
  const bfloat16* a;
  std::int64_t a_stride;          ///< from a row of A to the next
  const std::int64_t* a_offsets;  ///< from `a` to the first element of A_s
  const bfloat16* b;
  std::int64_t b_stride, b_column, b_step;  ///< from a pair of rows to the next, a column tile, a step
  std::int64_t steps;
  float* c;
  std::int64_t c_stride;
  bool add;  ///< to what c holds
};

using TileBlockFunction = void (*)(const TileBlock&);

/// In plain code.
void tile_block_reference(const TileBlock& block);
/// By instructions; null where the compiler does not know them.
extern const TileBlockFunction tile_block_amx, tile_block_avx512;

/// What products in bfloat16 run on here: the fastest instructions that processor and system let this process use, null
/// where there are none, as float32 is faster than plain code then.
TileBlockFunction tile_block();
/// AMX's tiles where there are any, and null elsewhere. They are several times as fast as float32, so that direct
/// convolutions on them beat Winograd's in float32, which need a quarter of the products; AVX-512's dot products of
/// pairs are only twice as fast, so that Winograd's win there.
TileBlockFunction fast_tile_block();
/// Tests: both give `function` from now on, and what is there again after nullptr.
void use_tile_block(TileBlockFunction function);

}  // namespace dattn
