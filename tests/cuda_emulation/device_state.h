// What the parts of the emulated device know of each other.
#pragma once

#include <cstdint>
#include <functional>

#include "execution.h"

namespace dattn::emulation {

/// Runs all blocks of a kernel now.
void run_kernel(const char* kernel, Index3 blocks, Index3 threads, std::function<void()>& body);

/// Shared memory of the next kernel, and of its next block.
void begin_kernel_memory(std::size_t dynamic_bytes);
void begin_block_memory();

/// The most shared memory of a block, in bytes, and the most of it that static arrays may take.
constexpr std::size_t kSharedBytes = std::size_t{227} << 10, kStaticSharedBytes = std::size_t{48} << 10;

}  // namespace dattn::emulation
