// The ways to multiply tile blocks, and what their tests compare.
#pragma once

#include <gtest/gtest.h>

#include <utility>

#include "amx_instructions.h"
#include "op_cases.h"
#include "op_compare.h"

namespace dattn::test {

/// Tile blocks go by `function`, convolutions too, while this lives.
class UseTileBlock {
 public:
  explicit UseTileBlock(TileBlockFunction function) { use_tile_block(function); }
  ~UseTileBlock() { use_tile_block(nullptr); }
  UseTileBlock(const UseTileBlock&) = delete;
  UseTileBlock& operator=(const UseTileBlock&) = delete;
};

/// Runs f with plain code, with AMX's instructions (emulated where there are none), and with what this processor is
/// given by default.
template <typename F>
void on_every_tile_block(F&& f) {
  const AmxInstructions amx;
  const TileBlockFunction usual = tile_block() == amx.tile_block() ? nullptr : tile_block();
  const std::pair<const char*, TileBlockFunction> ways[] = {
      {"plain code", tile_block_reference}, {"AMX", amx.tile_block()}, {"usual", usual}};
  for (const auto& [name, function] : ways) {
    if (!function) continue;
    SCOPED_TRACE(name);
    const UseTileBlock use(function);
    f();
  }
}

/// Normal numbers that bfloat16 holds.
inline Tensor rounded(const Shape& shape, std::uint32_t lane) { return normal(shape, lane).to(Dtype::bfloat16); }

/// Expects `found` near the exact `right` after float32 sums of so many terms and so many roundings to bfloat16.
inline void expect_near(const Tensor& found, const Tensor& right, std::int64_t terms, double roundings,
                        const char* what) {
  EXPECT_LE(distance(found, right), (float_bound(terms) + roundings * 0x1p-8) * largest(right)) << what;
}

}  // namespace dattn::test
