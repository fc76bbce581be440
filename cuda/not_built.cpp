// cuda/enable.h in a build without nvcc.
#include "core/error.h"
#include "cuda/enable.h"

namespace dattn::cuda {

std::optional<std::string> why_unusable() {
  return "cuda: this build is for the CPU alone\nhint: install the CUDA toolkit and configure with -DDATTN_CUDA=ON, or "
         "use --device cpu";
}

void enable() { fail("{}", *why_unusable()); }

void synchronize() {}

}  // namespace dattn::cuda
