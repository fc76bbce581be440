// The device's caching pool: free blocks by arena and size, best fit.
#include "cuda/memory.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "cuda/context.h"
#include "cuda/out_of_memory.h"
#include "cuda/recording.h"

namespace dattn::cuda {

namespace {

using device_pool::caching;

constexpr int kCommon = 0;  // the arena that no Arena owns

constexpr std::size_t kSmallest = 512;

// Sizes an eighth of a power of two apart.
std::size_t class_bytes(std::size_t bytes) {
  if (!caching()) return std::max<std::size_t>(bytes, 1);
  std::size_t step = kSmallest;
  while (bytes > 16 * step) step *= 2;
  const std::size_t size = (bytes + step - 1) / step * step;
  return std::max(size, kSmallest);
}

struct Block {
  std::size_t bytes;
  int arena;
};

template <typename K, typename V>
using PooledMap = std::map<K, V, std::less<K>, PoolAllocator<std::pair<const K, V>>>;

struct Pool {
  std::mutex mutex;
  PooledMap<void*, Block> blocks;  // all
  // The free ones: arena, size, address.
  using Free = std::pair<std::pair<int, std::size_t>, void*>;
  std::set<Free, std::less<Free>, PoolAllocator<Free>> free;
  PoolStatistics statistics;
  int arenas = 0;
};

Pool& pool() {
  static auto* p = new Pool;  // never destroyed: tensors with static lifetime outlive it otherwise
  return *p;
}

thread_local int current_arena = kCommon;

// The smallest free block of an arena that holds `size` and is at most an eighth larger, or the end.
auto find_free(Pool& p, int arena, std::size_t size) {
  const auto found = p.free.lower_bound({{arena, size}, nullptr});
  const bool fits = found != p.free.end() && found->first.first == arena && found->first.second <= size + size / 8;
  return fits ? found : p.free.end();
}

// Gives cached blocks of the common arena back to the driver.
void trim_locked(Pool& p) {
  if (!is_recording()) synchronize();  // a recording begins with nothing under way
  for (auto i = p.free.begin(); i != p.free.end() && i->first.first == kCommon;) {
    check_cuda(cudaFree(i->second), "return of device memory");
    p.statistics.cached -= i->first.second;
    p.blocks.erase(i->second);
    i = p.free.erase(i);
  }
}

// Kernels that use a block may still run; a recording begins with nothing under way. Throws nothing: what has failed
// before is said by the next call that is checked.
void wait_for_users() noexcept {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(stream(), &status) == cudaSuccess && status == cudaStreamCaptureStatusNone)
    cudaStreamSynchronize(stream());
}

std::string mebibytes(std::size_t bytes) { return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20)); }

void* from_driver(Pool& p, std::size_t bytes) {
  void* block = nullptr;
  cudaError_t status = cudaMalloc(&block, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    trim_locked(p);
    status = cudaMalloc(&block, bytes);
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t free = 0, total = 0;
    check_cuda(cudaMemGetInfo(&free, &total), "free device memory");
    throw OutOfMemory(fmt::format("cuda: out of memory: {} more are needed, {} of {} are free, this process uses {}",
                                  mebibytes(bytes), mebibytes(free), mebibytes(total), mebibytes(p.statistics.in_use)));
  }
  check_cuda(status, "request for device memory");
  ++p.statistics.system_requests;
  return block;
}

}  // namespace

namespace device_pool {

bool caching() {
#if defined(__SANITIZE_ADDRESS__)
  return false;
#else
  static const bool is_on = !std::getenv("DATTN_CUDA_NO_CACHING");
  return is_on;
#endif
}

void* allocate(std::size_t bytes) {
  const std::size_t size = class_bytes(bytes);
  Pool& p = pool();
  const std::scoped_lock lock(p.mutex);
  auto found = find_free(p, current_arena, size);
  if (found == p.free.end()) found = find_free(p, kCommon, size);  // which an arena takes over
  void* block = nullptr;
  if (found != p.free.end()) {
    block = found->second;
    p.statistics.cached -= found->first.second;
    p.free.erase(found);
    p.blocks[block].arena = current_arena;
  } else {
    block = from_driver(p, size);
    p.blocks[block] = {size, current_arena};
  }
  p.statistics.in_use += p.blocks[block].bytes;
  p.statistics.peak_in_use = std::max(p.statistics.peak_in_use, p.statistics.in_use);
  return block;
}

void release(void* block, std::size_t /*bytes*/) noexcept {
  if (!block) return;
  Pool& p = pool();
  const std::scoped_lock lock(p.mutex);
  const Block& b = p.blocks.at(block);
  p.statistics.in_use -= b.bytes;
  if (!caching() && b.arena == kCommon) {  // replays go on using what an arena has given
    wait_for_users();
    cudaFree(block);
    p.blocks.erase(block);
    return;
  }
  p.statistics.cached += b.bytes;
  p.free.insert({{b.arena, b.bytes}, block});
}

PoolStatistics statistics() {
  const std::scoped_lock lock(pool().mutex);
  return pool().statistics;
}

void reset_peak() {
  const std::scoped_lock lock(pool().mutex);
  pool().statistics.peak_in_use = pool().statistics.in_use;
}

void trim() {
  const std::scoped_lock lock(pool().mutex);
  trim_locked(pool());
}

}  // namespace device_pool

Arena::Arena() {
  const std::scoped_lock lock(pool().mutex);
  number_ = ++pool().arenas;
}

Arena::~Arena() {
  Pool& p = pool();
  const std::scoped_lock lock(p.mutex);
  for (auto& [address, block] : p.blocks) {
    if (block.arena != number_) continue;
    if (p.free.erase({{number_, block.bytes}, address}) > 0) p.free.insert({{kCommon, block.bytes}, address});
    block.arena = kCommon;
  }
}

Arena::Scope::Scope(const Arena& arena) : before_(std::exchange(current_arena, arena.number_)) {}
Arena::Scope::~Scope() { current_arena = before_; }

void enable_memory() { cuda_memory = {device_pool::allocate, device_pool::release, copy}; }

void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes) {
  if (bytes == 0) return;
  if (to_device != from_device)
    refuse_in_recording("a copy between host and device", "a replay would repeat the bytes of the recording");
  const cudaMemcpyKind kind = to_device == Device::cpu     ? cudaMemcpyDeviceToHost
                              : from_device == Device::cpu ? cudaMemcpyHostToDevice
                                                           : cudaMemcpyDeviceToDevice;
  check_cuda(cudaMemcpyAsync(to, from, bytes, kind, stream()), "copy");
  if (to_device != from_device) synchronize();  // the host reads its memory, or gives it back
}

}  // namespace dattn::cuda
