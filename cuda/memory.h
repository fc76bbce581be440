// Memory of the device: a caching pool, so that a step repeats its addresses and asks the driver for nothing, scratch
// memory of kernels, and copies between host and device.
#pragma once

#include <cstddef>

#include "core/memory.h"

namespace dattn::cuda {

/// Size classes as in core/memory; a request takes the smallest cached block that holds it and is at most an eighth
/// larger than its class. A block may be given back while kernels that use it still run: the next user's work comes
/// later on the same stream. Thread-safe.
namespace device_pool {
/// Whether blocks that are given back are kept. Otherwise every block ends where it was asked to, and goes back at once
/// unless it is an arena's: under AddressSanitizer, and for compute-sanitizer where DATTN_CUDA_NO_CACHING is set.
bool caching();
/// Error with the bytes needed and free where the device has no more.
void* allocate(std::size_t bytes);
void release(void* block, std::size_t bytes) noexcept;
PoolStatistics statistics();
void reset_peak();
/// Waits for the stream and returns all cached blocks of the common arena to the driver.
void trim();
}  // namespace device_pool

/// Blocks of its own: what is allocated while a scope lives comes from this arena, which takes over free common blocks
/// where it has none, and goes back to it. A captured step keeps one, so that nothing else ever writes to the addresses
/// that its replays use.
class Arena {
 public:
  Arena();
  ~Arena();  ///< its cached blocks join the common ones
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  class Scope {
   public:
    explicit Scope(const Arena& arena);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    int before_;
  };

 private:
  int number_;
};

/// Scratch memory of a kernel, for the length of the scope that launches it; contents undefined.
template <typename T>
class Scratch {
 public:
  explicit Scratch(std::int64_t count)
      : bytes_(static_cast<std::size_t>(count) * sizeof(T)), data_(static_cast<T*>(device_pool::allocate(bytes_))) {}
  ~Scratch() { device_pool::release(data_, bytes_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data() { return data_; }

 private:
  std::size_t bytes_;
  T* data_;
};

/// Fills dattn::cuda_memory with the pool and the copies below.
void enable_memory();

/// Copies on the stream. Between host and device it returns when it is done, so that the host may read `to` and give
/// `from` back; within the device later work on the stream sees it.
void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes);

}  // namespace dattn::cuda
