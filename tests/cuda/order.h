// The order in which blocks and threads run. A device chooses its own; the emulation can be told, so that results which
// depend on it show.
#pragma once

#if defined(DATTN_CUDA_EMULATED)
#include "cuda_emulation/execution.h"
#endif

namespace dattn::test {

/// From the first to the last in even runs, and the other way round in odd ones.
inline void run_in_order([[maybe_unused]] int run) {
#if defined(DATTN_CUDA_EMULATED)
  emulation::set_reversed(run % 2 == 1);
#endif
}

}  // namespace dattn::test
