// The launch of a kernel on the stream.
#include "cuda/common.cuh"

namespace dattn::cuda {

void launch_now(const char* name, const void* kernel, dim3 blocks, dim3 threads, std::size_t shared_bytes,
                void** arguments) {
  constexpr std::size_t kWithoutAsking = 48 << 10;  // more has to be asked for
  if (shared_bytes > kWithoutAsking) {
    check(shared_bytes <= device().shared_bytes, "cuda: {} needs {} bytes of shared memory, {} has {}", name,
          shared_bytes, device().name, device().shared_bytes);
    // The limit is the kernel's, not the launch's: it is never lowered, as recorded launches may need what it was.
    const auto needed = static_cast<int>(shared_bytes);
    cudaFuncAttributes now{};
    check_cuda(cudaFuncGetAttributes(&now, kernel), name);
    if (now.maxDynamicSharedSizeBytes < needed) {
      check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, needed), name);
    }
  }
  check_cuda(cudaLaunchKernel(kernel, blocks, threads, arguments, shared_bytes, stream()), name);
}

}  // namespace dattn::cuda
