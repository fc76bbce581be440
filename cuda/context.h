// The device, its properties, the one stream that everything runs on, and the check of every CUDA call.
#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "core/error.h"
#include "cuda/out_of_memory.h"

#if defined(DATTN_CUDA_EMULATED)
#include "cuda_emulation/cuda_emulation.h"
#else
#include <cuda_runtime.h>
#endif

namespace dattn::cuda {

/// Throws Error `cuda: <what>: <CUDA's words> (<CUDA's name>)` unless the call has succeeded; OutOfMemory where the
/// driver had no memory for its own needs.
inline void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) [[likely]]
    return;
  const std::string text = fmt::format("cuda: {}: {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status));
  if (status == cudaErrorMemoryAllocation) throw OutOfMemory(text);
  fail("{}", text);
}

struct DeviceProperties {
  std::string name;
  int major = 0, minor = 0;      ///< compute capability
  int code = 0;                  ///< the one that this build's kernels were compiled for, 80 for 8.0
  std::size_t shared_bytes = 0;  ///< the most of one block

  /// Whether mma_bfloat16 and asynchronous copies are there.
  bool has_bfloat16_mma() const { return code >= 80; }
};

/// Why no device can be used (none there, a driver too old, no code for its architecture in this build, or what the
/// driver says), with a hint, or nothing where one can.
std::optional<std::string> why_unusable();

/// Takes the first device (of those that CUDA_VISIBLE_DEVICES leaves) and makes the stream; Error where none can be
/// used. Further calls do nothing.
void open_device();

/// Of the open device.
const DeviceProperties& device();
cudaStream_t stream();
/// Waits until everything on the stream has run.
void synchronize();

}  // namespace dattn::cuda
