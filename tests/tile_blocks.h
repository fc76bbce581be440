// The ways to multiply tile blocks, for tests.
#pragma once

#include <gtest/gtest.h>

#include "amx_instructions.h"

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

}  // namespace dattn::test
