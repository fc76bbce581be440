// cuda/enable.h and cuda/step_graph.h in a build without nvcc.
#include "core/error.h"
#include "cuda/enable.h"
#include "cuda/step_graph.h"

namespace dattn::cuda {

std::optional<std::string> why_unusable() {
  return "cuda: this build is for the CPU alone\nhint: install the CUDA toolkit and configure with -DDATTN_CUDA=ON, or "
         "use --device cpu";
}

void enable() { fail("{}", *why_unusable()); }

void synchronize() {}

struct StepGraph::State {};
StepGraph::StepGraph() = default;
StepGraph::~StepGraph() = default;
void StepGraph::run(const std::function<void()>&) { fail("{}", *why_unusable()); }
void StepGraph::reset() {}

}  // namespace dattn::cuda
