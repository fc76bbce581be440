// AMX's instructions on any x86-64 machine: where the processor has no tiles, the same machine code runs and each of
// its tile instructions, as it traps, is done in plain code.
#pragma once

#include "core/tile_block.h"

namespace dattn::test {

/// Makes tile blocks by AMX's instructions possible in every thread while it lives.
class AmxInstructions {
 public:
  AmxInstructions();
  ~AmxInstructions();
  AmxInstructions(const AmxInstructions&) = delete;
  AmxInstructions& operator=(const AmxInstructions&) = delete;

  /// tile_block_amx; null where neither the processor nor the emulation can run it.
  TileBlockFunction tile_block() const { return function_; }
  /// How many instructions were emulated so far in the process; 0 on a processor with tiles.
  static long emulated();

 private:
  TileBlockFunction function_ = nullptr;
  bool emulates_ = false;
};

}  // namespace dattn::test
