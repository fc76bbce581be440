// A step as a CUDA graph: what its kernels are given is recorded from the stream, and launched as a whole.
#include "cuda/step_graph.h"

#include <algorithm>
#include <array>
#include <type_traits>

#include "cuda/context.h"
#include "cuda/memory.h"

namespace dattn::cuda {

namespace {

// Makes a call that takes memory of the device for the driver's own needs: where there is none left, once more after
// the pool's unused blocks have gone back.
template <typename Call>
void check_with_memory(Call&& call, const char* what) {
  cudaError_t status = call();
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    device_pool::trim();
    status = call();
  }
  check_cuda(status, what);
}

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
    const std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, decltype(&cudaGraphDestroy)> owner(graph,
                                                                                                 cudaGraphDestroy);
    cudaGraphExec_t replay = nullptr;
    check_with_memory([&] { return cudaGraphInstantiate(&replay, graph, 0); }, "preparation of a recorded step");
    return replay;
  }

 private:
  bool recording_ = true;
};

// The replays that the device has not finished yet, of which the host keeps a few ahead: enough that the device never
// waits, and few enough that a stop is soon obeyed.
class ReplaysUnderWay {
 public:
  ReplaysUnderWay() = default;
  ~ReplaysUnderWay() {
    for (cudaEvent_t event : ends_) {
      if (event) cudaEventDestroy(event);
    }
  }
  ReplaysUnderWay(const ReplaysUnderWay&) = delete;
  ReplaysUnderWay& operator=(const ReplaysUnderWay&) = delete;

  /// Waits until there is room for one more.
  void wait() {
    if (ends_[next_]) check_cuda(cudaEventSynchronize(ends_[next_]), "wait for a replay");
  }
  /// Counts the one that the stream was given last.
  void add() {
    cudaEvent_t& end = ends_[next_];
    if (!end) check_cuda(cudaEventCreateWithFlags(&end, kFlags), "making of an event");
    check_cuda(cudaEventRecord(end, stream()), "end of a replay");
    next_ = (next_ + 1) % ends_.size();
  }

 private:
  static constexpr unsigned kFlags = cudaEventDisableTiming | cudaEventBlockingSync;

  std::array<cudaEvent_t, kMostReplaysUnderWay> ends_{};
  std::size_t next_ = 0;
};

constexpr int kCallsAtFirst = 2, kCallsAfterReset = 1;

}  // namespace

struct StepGraph::State {
  Arena arena;
  int calls = kCallsAtFirst;  // of the body, before it is recorded
  cudaGraphExec_t replay = nullptr;
  ReplaysUnderWay under_way;

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
  s.under_way.wait();
  check_with_memory([&] { return cudaGraphLaunch(s.replay, stream()); }, "replay of a step");
  s.under_way.add();
}

void StepGraph::reset() {
  State& s = *state_;
  s.calls = s.replay ? kCallsAfterReset : std::max(s.calls, kCallsAfterReset);
  s.forget();
}

}  // namespace dattn::cuda
