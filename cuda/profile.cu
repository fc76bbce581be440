// The calls that turn a profiler on and off.
#include "cuda/profile.h"

#include "cuda/context.h"

#if !defined(DATTN_CUDA_EMULATED)
#include <cuda_profiler_api.h>
#endif

namespace dattn::cuda {

Profiled::Profiled() {
  synchronize();
  check_cuda(cudaProfilerStart(), "start of a profiler");
}

Profiled::~Profiled() {
  cudaStreamSynchronize(stream());  // what has failed is said by the next call that is checked
  cudaProfilerStop();
}

}  // namespace dattn::cuda
