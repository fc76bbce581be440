// Memory of tensors and graph nodes: a caching pool, so that a training step repeats its addresses and asks the system
// for nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/device.h"

namespace dattn {

/// Every block of the pool starts on this boundary, in bytes.
inline constexpr std::size_t kAlignment = 64;

/// What a pool holds, in bytes, and how often it had to ask the system.
struct PoolStatistics {
  std::size_t in_use = 0;       ///< handed out now
  std::size_t peak_in_use = 0;  ///< the most handed out at once since the last reset_peak()
  std::size_t cached = 0;       ///< kept for the next request
  std::uint64_t system_requests = 0;
};

/// Caching allocator for CPU memory. Blocks below a megabyte have size classes an eighth of a power of two apart (below
/// 512 bytes multiples of kAlignment), so a block is at most an eighth too large; larger ones are split and joined
/// (core/large_blocks.h). Thread-safe. Under AddressSanitizer it caches nothing, so that errors show.
namespace pool {
/// At least `bytes` bytes, aligned to kAlignment, contents undefined. Throws Error when the system has no more.
void* allocate(std::size_t bytes);
/// Gives back a block of allocate(bytes): the same number of bytes.
void release(void* block, std::size_t bytes) noexcept;
/// The same for scratch memory inside tiles of a parallel loop, from a cache of its own. When a tile first holds n
/// blocks of a size at once, n for every thread are allocated: later steps then ask the system for nothing, however
/// their tiles overlap.
void* allocate_scratch(std::size_t bytes);
void release_scratch(void* block, std::size_t bytes) noexcept;
PoolStatistics statistics();
void reset_peak();
/// Returns all cached blocks to the system.
void trim();
}  // namespace pool

/// Standard allocator over the pool, for shared_ptr control blocks and vectors that live in a training step.
template <typename T>
struct PoolAllocator {
  using value_type = T;
  PoolAllocator() = default;
  template <typename U>
  PoolAllocator(const PoolAllocator<U>&) {}  // NOLINT: converting by design
  T* allocate(std::size_t n) { return static_cast<T*>(pool::allocate(n * sizeof(T))); }
  void deallocate(T* p, std::size_t n) noexcept { pool::release(p, n * sizeof(T)); }
  bool operator==(const PoolAllocator&) const { return true; }
};

template <typename T, typename... Args>
std::shared_ptr<T> make_pooled(Args&&... args) {
  return std::allocate_shared<T>(PoolAllocator<T>{}, std::forward<Args>(args)...);
}

/// Scratch memory of a kernel for the length of a scope; contents undefined.
template <typename T>
class Scratch {
 public:
  explicit Scratch(std::size_t count)
      : bytes_(count * sizeof(T)), data_(static_cast<T*>(pool::allocate_scratch(bytes_))) {}
  ~Scratch() { pool::release_scratch(data_, bytes_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data() { return data_; }
  T& operator[](std::size_t i) { return data_[i]; }
  std::size_t size() const { return bytes_ / sizeof(T); }

 private:
  std::size_t bytes_;
  T* data_;
};

/// A block of memory of any device that frees itself; tensors share it.
class Storage {
 public:
  Storage(std::size_t bytes, Device device);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  std::byte* data_;
  std::size_t bytes_;
  Device device_;
};

/// How a device other than the CPU gives and takes memory; cuda::enable() fills it.
struct DeviceMemory {
  void* (*allocate)(std::size_t bytes) = nullptr;
  void (*release)(void* block, std::size_t bytes) noexcept = nullptr;
  void (*copy)(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes) = nullptr;
};
extern DeviceMemory cuda_memory;

/// Copies bytes between devices; returns when `to` is ready.
void copy_bytes(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes);

}  // namespace dattn
