// The emulated device: how a kernel's blocks and threads run on the host, and the checks that go with it.
//
// Blocks run one after the other. The threads of a block are fibers that take turns where one waits: at a barrier of
// the block, or in an operation of its warp. Where none waits, all run on one fiber, one after the other.
//
// Checked, each with an Error that names kernel, block and thread:
//   - a read of shared memory that no thread of the block has written, and any access outside of an array;
//   - races: two threads access one element of shared memory, one of them writes, and no barrier lies between (within a
//     warp __syncwarp orders too; shuffles and votes do not, as CUDA says);
//   - threads that miss a barrier: some have ended, or wait somewhere else, while others wait;
//   - operations of a warp with threads missing from their mask, or a shuffle that reads from such a thread.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <stdexcept>
#include <string>
#include <utility>

namespace dattn::emulation {

/// What a check found, or what the device refuses.
class Error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};

using Site = std::source_location;

constexpr int kWarp = 32;
constexpr unsigned kFullMask = 0xffffffffu;

/// Runs `body` once for every thread, or records it where the stream captures a graph. `shared_bytes` are dynamic.
void launch(const char* kernel, Index3 blocks, Index3 threads, std::size_t shared_bytes, std::function<void()> body);

/// From now on blocks run from the last to the first, and so do threads where they may: a kernel whose results change
/// then depends on an order that no device promises.
void set_reversed(bool reversed);

// --- what a running thread sees ---

/// The thread that runs, and when: `epoch` counts the intervals between barriers over all blocks, `first_epoch` is that
/// of this block, `warp_turn` counts the __syncwarp of its warp.
struct Running {
  Index3 thread, block, threads, blocks;
  int index = 0;  ///< in the block
  std::uint32_t epoch = 1, first_epoch = 1;
  const std::uint32_t* warp_turn = nullptr;
  bool in_kernel = false;
};
extern Running running;

/// Waits for all threads of the block.
void block_barrier(const Site& site);
/// Whether `flag` holds in any thread of the block, asked at a barrier.
bool block_any(bool flag, const Site& site);

/// What the threads of a warp do together.
enum class WarpOperation : unsigned char { sync, shuffle, vote, matrix };

/// Waits for the threads in `mask`, then gives their values: that of lane i begins at byte i * kExchangeBytes. They
/// stay until the thread's next operation.
constexpr std::size_t kExchangeBytes = 64;
const std::byte* warp_exchange(WarpOperation operation, unsigned mask, const void* value, std::size_t bytes,
                               const Site& site);

/// Ends the kernel with an Error that names kernel, block and thread.
[[noreturn]] void end_kernel(const std::string& what);
template <typename... Args>
[[noreturn]] void fail_here(fmt::format_string<Args...> format, Args&&... args) {
  end_kernel(fmt::format(format, std::forward<Args>(args)...));
}

// --- shared memory ---

/// Two bytes of shared memory: who accessed them last, and when.
struct Cell {
  std::uint32_t write_epoch = 0, write_turn = 0;  ///< the interval between barriers, and between __syncwarp of the warp
  std::uint32_t read_epoch = 0, read_turn = 0;
  std::uint16_t writer = 0, reader = 0;
};
constexpr std::uint16_t kManyWarps = 0xffff, kOneWarp = 0x8000;  ///< for Cell::reader: several, or several of warp w
constexpr std::uint16_t kAtomic = 0xfffe;                        ///< for Cell::writer: one or more atomic operations

enum class Access : unsigned char { read, write, atomic };

/// A piece of shared memory with a name: what an array's pointer carries along.
struct SharedArray {
  const char* name = nullptr;
  std::byte* data = nullptr;
  std::size_t bytes = 0;
};

/// The array of the declaration `key` in this block: the same for all its threads.
SharedArray shared_array(const void* key, const char* name, std::size_t bytes);
/// Bytes [offset, offset + bytes) of the dynamic shared memory.
SharedArray dynamic_shared(const char* name, std::size_t offset, std::size_t bytes);
/// Checks and notes an access to `bytes` bytes at `at`, for elements of `element` bytes.
void note_access(const SharedArray& array, const std::byte* at, std::size_t bytes, Access access);

}  // namespace dattn::emulation
