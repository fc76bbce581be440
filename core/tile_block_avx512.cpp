// Tile blocks by AVX-512's dot products of pairs in bfloat16 (AVX512_BF16): a pair of A's row, in all lanes, times 16
// pairs of B. Eight rows by two column tiles of sums are held in registers.
#include "core/tile_block.h"

#ifdef __AVX512BF16__

#include <immintrin.h>

#include <cstring>

namespace dattn {

namespace {

constexpr int kRows = 8;

// Two numbers of A in every lane.
__m512bh pair_in_all_lanes(const bfloat16* from) {
  int bits;
  std::memcpy(&bits, from, sizeof(bits));
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(bits));
}
__m512bh pairs(const bfloat16* from) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(from)); }

// Rows [first, first + kRows) of the block.
template <int kColumnTiles>
void multiply_rows(const TileBlock& block, std::int64_t first) {
  float* c = block.c + first * block.c_stride;
  __m512 sum[kRows][kColumnTiles];
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kColumnTiles; ++t) {
      sum[r][t] = block.add ? _mm512_loadu_ps(c + r * block.c_stride + t * kTileSide) : _mm512_setzero_ps();
    }
  }
  for (std::int64_t s = 0; s < block.steps; ++s) {
    const bfloat16* a = block.a + block.a_offsets[s] + first * block.a_stride;
    const bfloat16* b = block.b + s * block.b_step;
    for (std::int64_t k = 0; k < kTileDepth; k += 2, b += block.b_stride) {
      __m512bh column[kColumnTiles];
      for (int t = 0; t < kColumnTiles; ++t) column[t] = pairs(b + t * block.b_column);
      for (int r = 0; r < kRows; ++r) {
        const __m512bh row = pair_in_all_lanes(a + r * block.a_stride + k);
        for (int t = 0; t < kColumnTiles; ++t) sum[r][t] = _mm512_dpbf16_ps(sum[r][t], row, column[t]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < kColumnTiles; ++t) _mm512_storeu_ps(c + r * block.c_stride + t * kTileSide, sum[r][t]);
  }
}

void multiply_block(const TileBlock& block) {
  for (std::int64_t r = 0; r < kTileSide * block.row_tiles; r += kRows) {
    block.column_tiles == 2 ? multiply_rows<2>(block, r) : multiply_rows<1>(block, r);
  }
}

}  // namespace

const TileBlockFunction tile_block_avx512 = multiply_block;

}  // namespace dattn

#else

namespace dattn {

const TileBlockFunction tile_block_avx512 = nullptr;

}  // namespace dattn

#endif
