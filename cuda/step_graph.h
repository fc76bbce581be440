// A training step that is recorded once as a CUDA graph and replayed from then on: a replay is one call of the driver,
// without allocations or other work of the host, which waits only where it is many replays ahead.
#pragma once

#include <functional>
#include <memory>

namespace dattn::cuda {

/// How many replays may be given to the device before the host waits for the first of them.
inline constexpr int kMostReplaysUnderWay = 16;

/// Runs one step again and again. What changes from step to step (images, rates, counts) is read from tensors on the
/// device whose addresses stay (dropout finds its step there by RandomStepOnDevice); whatever the host hands over by
/// value is repeated as it was at the recording. While run() records, no other thread may use the device.
class StepGraph {
 public:
  StepGraph();
  ~StepGraph();
  StepGraph(const StepGraph&) = delete;
  StepGraph& operator=(const StepGraph&) = delete;

  /// Gives one step to the device. The first two calls run `body` as it is, which gathers the memory that it needs and
  /// chooses the libraries' plans; the third records it and replays the record, and all later ones only replay, without
  /// looking at `body`. What `body` allocates stays in an arena of the graph's own. Error where `body` does what cannot
  /// be replayed: copies between host and device, waits for the device, dropout by a step of the host. After an Error
  /// the next call begins where this one did.
  void run(const std::function<void()>& body);

  /// To be called when the body has changed: run() starts again with one call of it and a new record.
  void reset();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dattn::cuda
