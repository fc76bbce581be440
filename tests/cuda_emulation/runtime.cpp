// Memory, streams and graphs of the emulated device.
#include "runtime.h"

#include <sys/mman.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "device_state.h"

struct EmulatedGraph {
  std::vector<std::function<void()>> work;
};
struct EmulatedStream {
  EmulatedGraph* capturing = nullptr;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool invalid = false;  // something was asked of the capture that ends it
};
struct EmulatedEvent {
  std::chrono::steady_clock::time_point time;
};

namespace dattn::emulation {

Machine machine;

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kBlocksOfMalloc = true;  // AddressSanitizer sees the end of each
#else
constexpr bool kBlocksOfMalloc = false;
#endif

constexpr std::size_t kArenaBytes = std::size_t{1} << 34, kAlignment = 256, kHugePage = std::size_t{2} << 20;

struct Memory {
  std::recursive_mutex mutex;  // one piece of work at a time
  std::byte* arena = nullptr;
  std::map<std::byte*, std::size_t> blocks;  // that are in use, by address
  std::size_t in_use = 0;
  int open = 0;  // pieces of work that may touch device memory
  int protection = PROT_NONE;
  EmulatedStream* capturing = nullptr;
  std::uint64_t calls = 0;
};

Memory& memory() {
  static auto* m = new Memory;
  return *m;
}

// The kernel of the system goes through all pages in use, so a lot of memory stays open.
constexpr std::size_t kProtected = std::size_t{16} << 20;

void protect(int protection) {
  Memory& m = memory();
  if (!m.arena || (protection == PROT_NONE && m.in_use > kProtected) || protection == m.protection) return;
  mprotect(m.arena, kArenaBytes, protection);
  m.protection = protection;
}

// While one lives, device memory may be touched. Host code that does so at another time ends with a signal, as it would
// on a machine with a device.
struct DeviceMemoryOpen {
  std::scoped_lock<std::recursive_mutex> lock{memory().mutex};
  DeviceMemoryOpen() {
    if (memory().open++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  ~DeviceMemoryOpen() {
    if (--memory().open == 0) protect(PROT_NONE);
  }
};

// The first gap between blocks that holds `bytes`.
std::byte* find_place(std::size_t bytes) {
  Memory& m = memory();
  if (!m.arena) {
    void* area = mmap(nullptr, kArenaBytes + kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED) return nullptr;
    m.arena = static_cast<std::byte*>(area) + kHugePage - reinterpret_cast<std::uintptr_t>(area) % kHugePage;
    madvise(m.arena, kArenaBytes, MADV_HUGEPAGE);  // few pages are quick to protect
  }
  const std::size_t step = bytes >= kHugePage ? kHugePage : kAlignment;
  const auto round_up = [&](std::byte* p) {
    return m.arena + (static_cast<std::size_t>(p - m.arena) + step - 1) / step * step;
  };
  std::byte* place = m.arena;
  for (const auto& [block, size] : m.blocks) {
    if (place + bytes <= block) return place;
    place = round_up(block + size);
  }
  return place;
}

std::byte* block_of_malloc(std::size_t bytes) {
  void* block = nullptr;
  return posix_memalign(&block, kAlignment, bytes) == 0 ? static_cast<std::byte*>(block) : nullptr;
}

// Counts a call that a capture in this mode does not allow, unless it is relaxed.
cudaError_t refuse_in_capture(bool also_relaxed) {
  Memory& m = memory();
  ++m.calls;
  if (!m.capturing || (!also_relaxed && m.capturing->mode == cudaStreamCaptureModeRelaxed)) return cudaSuccess;
  m.capturing->invalid = true;
  return cudaErrorStreamCaptureUnsupported;
}

void check_side(const char* call, const void* p, bool device) {
  if (is_device_memory(p) != device)
    throw Error(fmt::format("cuda emulation: {} expects a pointer to {} memory", call, device ? "device" : "host"));
}

}  // namespace

bool is_device_memory(const void* p) {
  Memory& m = memory();
  const std::scoped_lock lock(m.mutex);
  const auto* at = static_cast<const std::byte*>(p);
  auto after = m.blocks.upper_bound(const_cast<std::byte*>(at));
  return after != m.blocks.begin() && at <= (--after)->first + after->second;
}

void run_on_stream(std::function<void()> work) {
  Memory& m = memory();
  const std::scoped_lock lock(m.mutex);
  ++m.calls;
  if (m.capturing) {
    m.capturing->capturing->work.push_back(std::move(work));
  } else {
    const DeviceMemoryOpen open;
    work();
  }
}

std::uint64_t runtime_calls() {
  const std::scoped_lock lock(memory().mutex);
  return memory().calls;
}

void check_device_pointer(const char* user, const void* p) {
  if (p && !is_device_memory(p))
    throw Error(fmt::format("cuda emulation: {}: an argument points to host memory", user));
}

void launch(const char* kernel, Index3 blocks, Index3 threads, std::size_t shared_bytes, std::function<void()> body) {
  const std::uint64_t count = std::uint64_t{threads.x} * threads.y * threads.z;
  const auto refuse = [&](const std::string& why) { throw Error(fmt::format("cuda emulation: {}: {}", kernel, why)); };
  if (count == 0 || count > 1024 || count % kWarp != 0) refuse(fmt::format("a block of {} threads", count));
  if (blocks.y > 65535 || blocks.z > 65535 || blocks.x > 0x7fffffffu) refuse("a grid too large for a device");
  if (shared_bytes > kSharedBytes) refuse(fmt::format("{} bytes of shared memory", shared_bytes));
  run_on_stream([=]() mutable {
    begin_kernel_memory(shared_bytes);
    run_kernel(kernel, blocks, threads, body);
  });
}

}  // namespace dattn::emulation

using namespace dattn::emulation;  // NOLINT: the runtime's own names are global

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorDevicesUnavailable:
      return "cudaErrorDevicesUnavailable";
    case cudaErrorSystemNotReady:
      return "cudaErrorSystemNotReady";
    case cudaErrorInvalidDeviceFunction:
      return "cudaErrorInvalidDeviceFunction";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorNoKernelImageForDevice:
      return "cudaErrorNoKernelImageForDevice";
    case cudaErrorUnsupportedPtxVersion:
      return "cudaErrorUnsupportedPtxVersion";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
      return "cudaErrorStreamCaptureInvalidated";
  }
  return "unknown error";
}
const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
cudaError_t cudaGetLastError() { return cudaSuccess; }

// --- the device ---

cudaError_t cudaGetDeviceCount(int* count) {
  *count = machine.devices;
  if (machine.driver < machine.runtime) return cudaErrorInsufficientDriver;
  if (machine.counting != cudaSuccess) return machine.counting;
  return machine.devices == 0 ? cudaErrorNoDevice : cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device < machine.devices ? machine.choice : cudaErrorInvalidDevice; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int /*device*/) {
  *properties = {};
  std::strcpy(properties->name, "emulated device");
  properties->major = machine.major;
  properties->minor = machine.minor;
  properties->multiProcessorCount = 3;
  properties->totalGlobalMem = machine.memory;
  properties->sharedMemPerBlockOptin = kSharedBytes;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = machine.driver, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = machine.runtime, cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* /*function*/) {
  *attributes = {0, 1024, 32, 10 * machine.major + machine.minor};
  return machine.loading;
}

// --- memory ---

cudaError_t cudaMalloc(void** block, std::size_t bytes) {
  Memory& m = memory();
  const std::scoped_lock lock(m.mutex);
  if (const cudaError_t refused = refuse_in_capture(false)) return refused;
  if (m.in_use + bytes > machine.memory) return cudaErrorMemoryAllocation;
  std::byte* place = kBlocksOfMalloc ? block_of_malloc(bytes) : find_place(bytes);
  if (!place) return cudaErrorMemoryAllocation;
  m.blocks[place] = bytes;
  m.in_use += bytes;
  const DeviceMemoryOpen open;
  std::memset(place, 0xff, bytes);  // not a number, in every type
  *block = place;
  return cudaSuccess;
}

cudaError_t cudaFree(void* block) {
  Memory& m = memory();
  const std::scoped_lock lock(m.mutex);
  if (!block) return cudaSuccess;
  if (const cudaError_t refused = refuse_in_capture(false)) return refused;
  const auto found = m.blocks.find(static_cast<std::byte*>(block));
  if (found == m.blocks.end()) return cudaErrorInvalidValue;
  m.in_use -= found->second;
  if (kBlocksOfMalloc) {
    std::free(block);
  } else if (found->second >= kHugePage) {  // gives pages back: blocks begin on pages of their own from this size on
    madvise(block, found->second / kHugePage * kHugePage, MADV_DONTNEED);
  }
  m.blocks.erase(found);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** block, std::size_t bytes) {
  *block = std::malloc(bytes);
  return *block ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void* block) {
  std::free(block);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  const std::scoped_lock lock(memory().mutex);
  *free = machine.memory - memory().in_use;
  *total = machine.memory;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  check_side("cudaMemcpyAsync", to, kind != cudaMemcpyDeviceToHost);
  check_side("cudaMemcpyAsync", from, kind != cudaMemcpyHostToDevice);
  run_on_stream([=] { std::memmove(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  check_side("cudaMemsetAsync", to, true);
  run_on_stream([=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}

// --- streams, events, graphs ---

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return *stream = new EmulatedStream, cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return delete stream, cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  const std::scoped_lock lock(memory().mutex);
  return refuse_in_capture(true);
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return *event = new EmulatedEvent, cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  return event->time = std::chrono::steady_clock::now(), cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const std::scoped_lock lock(memory().mutex);
  if (const cudaError_t refused = refuse_in_capture(true)) return refused;
  stream->capturing = new EmulatedGraph;
  stream->mode = mode;
  stream->invalid = false;
  memory().capturing = stream;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::scoped_lock lock(memory().mutex);
  if (memory().capturing != stream) return cudaErrorInvalidValue;
  *graph = std::exchange(stream->capturing, nullptr);
  memory().capturing = nullptr;
  if (!stream->invalid) return cudaSuccess;
  delete std::exchange(*graph, nullptr);
  return cudaErrorStreamCaptureInvalidated;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream && stream->capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  return *exec = new EmulatedGraph(*graph), cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
  run_on_stream([exec] {
    for (const auto& work : exec->work) work();
  });
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return delete exec, cudaSuccess; }

cudaError_t cudaProfilerStart() { return cudaSuccess; }
cudaError_t cudaProfilerStop() { return cudaSuccess; }
