// The caching pool: one intrusive free list for each size class of small blocks, and a list of large ones.
#include "core/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#include "core/error.h"
#include "core/large_blocks.h"
#include "core/machine_limits.h"
#include "core/parallel.h"

namespace dattn {

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kCaching = false;
#else
constexpr bool kCaching = true;
#endif

constexpr int kSteps = 8;  // classes to a power of two
constexpr int kClasses = 64 * kSteps;
constexpr std::size_t kLarge = std::size_t{1} << 20;  // blocks from here on are split and joined

bool is_large(std::size_t bytes) { return kCaching && bytes >= kLarge; }

// Class c holds blocks of class_bytes(c): 64, then eight sizes between each power of two and the next.
int class_of(std::size_t bytes) {
  if (bytes <= kAlignment * kSteps) return static_cast<int>((bytes + kAlignment - 1) / kAlignment);
  const int power = std::bit_width(bytes - 1) - 1;  // 2^power < bytes <= 2^(power+1)
  const std::size_t step = std::size_t{1} << (power - 3);
  const auto eighth = static_cast<int>((bytes - (std::size_t{1} << power) + step - 1) / step);
  return kSteps + (power - 9) * kSteps + eighth;
}

std::size_t class_bytes(int c) {
  if (c <= kSteps) return kAlignment * static_cast<std::size_t>(c < 1 ? 1 : c);
  const int power = 9 + (c - kSteps - 1) / kSteps;
  const int eighth = (c - kSteps - 1) % kSteps + 1;
  return (std::size_t{1} << power) + static_cast<std::size_t>(eighth) * (std::size_t{1} << (power - 3));
}

struct FreeBlock {
  FreeBlock* next;
};

struct CachingPool {
  std::mutex mutex;
  std::array<FreeBlock*, kClasses> free{};
  std::array<FreeBlock*, kClasses> free_scratch{};
  std::array<int, kClasses> scratch_blocks{};  // all there are, free or not
  std::size_t most = usable_memory();          // more cannot be backed, whatever addresses the system hands out
  LargeBlocks large{most};
  PoolStatistics statistics;  // `cached` and `system_requests` without those of large blocks

  void hand_out(std::size_t size) {
    statistics.in_use += size;
    statistics.peak_in_use = std::max(statistics.peak_in_use, statistics.in_use);
  }
};

thread_local std::array<int, kClasses> scratch_held{};  // by this thread, of each class

// Never destroyed: tensors with static lifetime may outlive every other static.
CachingPool& the_pool() {
  static auto* p = new CachingPool;
  return *p;
}

void* try_system(std::size_t bytes) {
  const bool huge = bytes >= 2 * kHugePage;
  void* block = nullptr;
  if (posix_memalign(&block, huge ? kHugePage : kAlignment, bytes) != 0) return nullptr;
  if (huge) madvise(block, bytes, MADV_HUGEPAGE);
  return block;
}

void give_to_system(FreeBlock*& first) {
  while (first) {
    FreeBlock* next = first->next;
    std::free(first);
    first = next;
  }
}

void trim(CachingPool& p) {
  for (int c = 0; c < kClasses; ++c) {
    give_to_system(p.free[c]);
    for (FreeBlock* block = p.free_scratch[c]; block; block = block->next) --p.scratch_blocks[c];
    give_to_system(p.free_scratch[c]);
  }
  p.statistics.cached = 0;
  p.large.trim();
}

// A block of attempt(); where there is none, what lies in the caches is given back first.
template <typename Attempt>
void* from_system(CachingPool& p, std::size_t size, const Attempt& attempt) {
  void* block = nullptr;
  if (p.statistics.in_use + size <= p.most) {
    block = attempt();
    if (!block) trim(p), block = attempt();
  }
  check(block,
        "memory: the system has no {} bytes more ({} are in use)\nhint: work on fewer images at a time, in training by "
        "a smaller --batch-size",
        size, p.statistics.in_use);
  return block;
}

void* new_block(CachingPool& p, std::size_t size) {
  void* block = from_system(p, size, [=] { return try_system(size); });
  ++p.statistics.system_requests;
  return block;
}

void* small_block(CachingPool& p, int c) {
  FreeBlock* block = p.free[c];
  if (!block) return new_block(p, class_bytes(c));
  p.free[c] = block->next;
  p.statistics.cached -= class_bytes(c);
  return block;
}

std::size_t block_bytes(std::size_t bytes) {
  return is_large(bytes) ? LargeBlocks::rounded(bytes) : class_bytes(class_of(bytes));
}

void check_size(std::size_t bytes) {
  check(bytes <= std::size_t{1} << 46, "memory: a block of {} bytes was asked for, which no machine has", bytes);
}

}  // namespace

namespace pool {

void* allocate(std::size_t bytes) {
  check_size(bytes);
  const std::size_t size = block_bytes(bytes);
  auto& p = the_pool();
  std::scoped_lock lock(p.mutex);
  void* block =
      is_large(bytes) ? from_system(p, size, [&] { return p.large.allocate(size); }) : small_block(p, class_of(bytes));
  p.hand_out(size);
  return block;
}

void release(void* block, std::size_t bytes) noexcept {
  if (!block) return;
  const std::size_t size = block_bytes(bytes);
  auto& p = the_pool();
  std::scoped_lock lock(p.mutex);
  p.statistics.in_use -= size;
  if (is_large(bytes)) return p.large.release(static_cast<std::byte*>(block), size);
  if constexpr (!kCaching) return std::free(block);
  FreeBlock*& first = p.free[class_of(bytes)];
  first = new (block) FreeBlock{first};
  p.statistics.cached += size;
}

void* allocate_scratch(std::size_t bytes) {
  if (!kCaching || !inside_tile()) return allocate(bytes);
  check_size(bytes);
  const int c = class_of(bytes);
  const std::size_t size = class_bytes(c);
  auto& p = the_pool();
  std::scoped_lock lock(p.mutex);
  for (const int enough = (scratch_held[c] + 1) * (thread_count() + 1);
       p.scratch_blocks[c] < enough || !p.free_scratch[c];) {
    void* block = new_block(p, size);
    p.free_scratch[c] = new (block) FreeBlock{p.free_scratch[c]};
    ++p.scratch_blocks[c];
    p.statistics.cached += size;
  }
  FreeBlock* block = p.free_scratch[c];
  p.free_scratch[c] = block->next;
  ++scratch_held[c];
  p.statistics.cached -= size;
  p.hand_out(size);
  return block;
}

void release_scratch(void* block, std::size_t bytes) noexcept {
  if (!kCaching || !inside_tile()) return release(block, bytes);
  const int c = class_of(bytes);
  auto& p = the_pool();
  std::scoped_lock lock(p.mutex);
  p.free_scratch[c] = new (block) FreeBlock{p.free_scratch[c]};
  --scratch_held[c];
  p.statistics.in_use -= class_bytes(c);
  p.statistics.cached += class_bytes(c);
}

PoolStatistics statistics() {
  auto& p = the_pool();
  std::scoped_lock lock(p.mutex);
  PoolStatistics all = p.statistics;
  all.cached += p.large.cached();
  all.system_requests += p.large.system_requests();
  return all;
}

void reset_peak() {
  auto& p = the_pool();
  std::scoped_lock lock(p.mutex);
  p.statistics.peak_in_use = p.statistics.in_use;
}

void trim() {
  auto& p = the_pool();
  std::scoped_lock lock(p.mutex);
  dattn::trim(p);
}

}  // namespace pool

DeviceMemory cuda_memory;

Storage::Storage(std::size_t bytes, Device device) : data_(nullptr), bytes_(bytes), device_(device) {
  if (device == Device::cpu) {
    data_ = static_cast<std::byte*>(pool::allocate(bytes));
  } else {
    check(cuda_memory.allocate, "memory: this build has no {} device\nhint: build with nvcc present, or use the cpu",
          name(device));
    data_ = static_cast<std::byte*>(cuda_memory.allocate(bytes));
  }
}

Storage::~Storage() {
  if (device_ == Device::cpu) {
    pool::release(data_, bytes_);
  } else {
    cuda_memory.release(data_, bytes_);
  }
}

void copy_bytes(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes) {
  if (to_device == Device::cpu && from_device == Device::cpu) {
    if (bytes) std::memcpy(to, from, bytes);
  } else {
    cuda_memory.copy(to, to_device, from, from_device, bytes);
  }
}

}  // namespace dattn
