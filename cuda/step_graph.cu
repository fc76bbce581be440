// A step as a CUDA graph: what its kernels are given is recorded from the stream, and launched as a whole.
#include "cuda/step_graph.h"

#include <algorithm>

#include "cuda/context.h"
#include "cuda/memory.h"

namespace dattn::cuda {

namespace {

// While one lives, the stream records what it is given in place of running it.
class Recording {
 public:
  Recording() {
    synchronize();  // memory that is given back to the driver meanwhile is then in nobody's use
    // Relaxed: a request for memory is no error.
    check_cuda(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeRelaxed), "begin of a recording");
  }
  ~Recording() {
    if (!recording_) return;
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(stream(), &graph) == cudaSuccess) cudaGraphDestroy(graph);
    cudaGetLastError();  // what failed is said by the exception that is under way
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  cudaGraphExec_t finish() {
    recording_ = false;
    cudaGraph_t graph = nullptr;
    check_cuda(cudaStreamEndCapture(stream(), &graph), "end of a recording");
    cudaGraphExec_t replay = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&replay, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(status, "preparation of a recorded step");
    return replay;
  }

 private:
  bool recording_ = true;
};

constexpr int kCallsAtFirst = 2, kCallsAfterReset = 1;

}  // namespace

struct StepGraph::State {
  Arena arena;
  int calls = kCallsAtFirst;  // of the body, before it is recorded
  cudaGraphExec_t replay = nullptr;

  State() = default;
  ~State() { forget(); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  void forget() {
    if (!replay) return;
    cudaStreamSynchronize(stream());  // the last replay may still run
    cudaGraphExecDestroy(replay);
    replay = nullptr;
  }
};

StepGraph::StepGraph() : state_(std::make_unique<State>()) {}
StepGraph::~StepGraph() = default;

void StepGraph::run(const std::function<void()>& body) {
  State& s = *state_;
  if (!s.replay) {
    const Arena::Scope scope(s.arena);
    if (s.calls > 0) {
      body();
      --s.calls;
      return;
    }
    Recording recording;
    body();
    s.replay = recording.finish();
  }
  check_cuda(cudaGraphLaunch(s.replay, stream()), "replay of a step");
}

void StepGraph::reset() {
  State& s = *state_;
  s.calls = s.replay ? kCallsAfterReset : std::max(s.calls, kCallsAfterReset);
  s.forget();
}

}  // namespace dattn::cuda
