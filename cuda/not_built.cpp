// What programs call of the CUDA module, in a build without nvcc.
#include "core/error.h"
#include "cuda/enable.h"
#include "cuda/memory.h"
#include "cuda/profile.h"
#include "cuda/step_graph.h"
#include "cuda/stopwatch.h"

namespace dattn::cuda {

std::optional<std::string> why_unusable() {
  return "cuda: this build is for the CPU alone\nhint: install the CUDA toolkit and configure with -DDATTN_CUDA=ON, or "
         "use --device cpu";
}

void enable() { fail("{}", *why_unusable()); }

std::string device_name() { fail("{}", *why_unusable()); }

void synchronize() {}

namespace device_pool {
PoolStatistics statistics() { return {}; }
void reset_peak() {}
void trim() {}
}  // namespace device_pool

struct StepGraph::State {};
StepGraph::StepGraph() = default;
StepGraph::~StepGraph() = default;
void StepGraph::run(const std::function<void()>&) { enable(); }
void StepGraph::reset() {}

Profiled::Profiled() { enable(); }
Profiled::~Profiled() = default;

struct Stopwatch::Events {};
Stopwatch::Stopwatch() = default;
Stopwatch::~Stopwatch() = default;
void Stopwatch::start() { enable(); }
double Stopwatch::stop() { fail("{}", *why_unusable()); }

}  // namespace dattn::cuda
