// Takes the place of cuda/conv2d_cudnn.cu where there is no cuDNN: no shape has a plan.
#include "core/error.h"
#include "cuda/conv2d_cudnn.h"

namespace dattn::cuda::cudnn {

bool available() { return false; }
bool enabled() { return false; }
void set_enabled(bool enabled) { check(!enabled, "cuda: this build has no cuDNN"); }
const Plan* find_plan(const Convolution&) { return nullptr; }
void run(const Plan&, const void*, const void*, const void*) { fail("cuda: this build has no cuDNN"); }

}  // namespace dattn::cuda::cudnn
