// Every kernel slot that has a CUDA side: one line an operation.
#include "cuda/enable.h"

#include "core/elements.h"
#include "cuda/context.h"
#include "cuda/kernels.h"
#include "cuda/memory.h"

namespace dattn::cuda {

void enable() {
  open_device();
  enable_memory();

  fill_elements.set_cuda(fill_elements_cuda);
  convert_elements.set_cuda(convert_elements_cuda);
}

}  // namespace dattn::cuda
