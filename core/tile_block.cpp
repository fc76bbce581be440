// The choice of tile instructions, and the same in plain code.
#include "core/tile_block.h"

#include <atomic>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace dattn {

namespace {

#if defined(__x86_64__) && defined(__linux__)

// Whether the processor has tiles and products of bfloat16 on them (CPUID leaf 7: EDX bits 24 and 22).
bool processor_has_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 1) && (d >> 22 & 1);
}

// Tile registers are 8 KiB of every thread's state, so the kernel gives them on demand only (Linux, arch/x86/xstate).
bool system_permits_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Which also asks whether the system saves the registers.
bool has_dot_products_of_pairs() { return __builtin_cpu_supports("avx512bf16"); }

#else

bool processor_has_tiles() { return false; }
bool system_permits_tiles() { return false; }
bool has_dot_products_of_pairs() { return false; }

#endif

std::atomic<TileBlockFunction> chosen_by_test{nullptr};

}  // namespace

void tile_block_reference(const TileBlock& block) {
  for (std::int64_t i = 0; i < kTileSide * block.row_tiles; ++i) {
    for (std::int64_t j = 0; j < kTileSide * block.column_tiles; ++j) {
      float& c = block.c[i * block.c_stride + j];
      float sum = block.add ? c : 0;
      const bfloat16* column = block.b + j / kTileSide * block.b_column + j % kTileSide * 2;
      for (std::int64_t s = 0; s < block.steps; ++s) {
        const bfloat16* row = block.a + block.a_offsets[s] + i * block.a_stride;
        const bfloat16* pairs = column + s * block.b_step;
        for (std::int64_t k = 0; k < kTileDepth; ++k) {
          sum += static_cast<float>(row[k]) * static_cast<float>(pairs[k / 2 * block.b_stride + k % 2]);
        }
      }
      c = sum;
    }
  }
}

TileBlockFunction fast_tile_block() {
  if (const TileBlockFunction function = chosen_by_test.load(std::memory_order_relaxed)) return function;
  static const TileBlockFunction here =
      tile_block_amx && processor_has_tiles() && system_permits_tiles() ? tile_block_amx : nullptr;
  return here;
}

TileBlockFunction tile_block() {
  if (const TileBlockFunction function = fast_tile_block()) return function;
  static const TileBlockFunction here = has_dot_products_of_pairs() ? tile_block_avx512 : nullptr;
  return here;
}

void use_tile_block(TileBlockFunction function) { chosen_by_test = function; }

}  // namespace dattn
