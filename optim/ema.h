// Exponential moving average of a model's weights (Polyak & Juditsky 1992): average = decay average + (1 - decay)
// weight.
#pragma once

#include <cstdint>
#include <vector>

#include "core/flat_parameters.h"
#include "core/kernel.h"
#include "optim/update_numbers.h"

namespace dattn {

struct EmaOptions {
  double decay = 0.999;
  /// Makes the decay of update n (0, 1, ...) min(decay, (1 + n) / (10 + n)), so that the random start is soon
  /// forgotten.
  bool warm_up = false;
};

/// A tensor and its average.
struct EmaPair {
  Tensor weight, average;
};

/// The average starts as a copy of the weights. Frozen parameters do not change and so have none.
class Ema {
 public:
  /// `buffers` are tensors of the model that are averaged with the weights (running statistics); those that are not
  /// floating are passed over.
  explicit Ema(const FlatParameters& parameters, const std::vector<NamedTensor>& buffers = {}, EmaOptions options = {});
  Ema(const Ema&) = delete;
  Ema& operator=(const Ema&) = delete;

  /// To be called after every optimizer step. Error while the averages are in the model.
  void step();

  // The parts of step(), for updates that are captured once and replayed, as Optimizer has them.

  /// Those of update t (1, 2, ...).
  void write_numbers(std::int64_t t, double* numbers) const;
  /// float64, one-dimensional, on the weights' device, where update() finds them.
  Tensor& numbers() { return numbers_.tensor(); }
  /// Moves the averages by numbers(), without host work that depends on the step.
  void update();
  /// Counts updates that were replayed.
  void count_steps(std::int64_t n) { steps_.data<std::int64_t>()[0] += n; }

  /// Updates made, those before a checkpoint included.
  std::int64_t steps() const { return steps_.data<std::int64_t>()[0]; }

  /// Exchanges the model's weights and buffers with their averages, and back at the second call. Elements change
  /// places, addresses stay.
  void swap();

  /// `updates` (one int64) and the averages under the names of the parameters and buffers, in their shapes. Loading
  /// copies into these tensors. Error while the averages are in the model.
  std::vector<NamedTensor> state() const;

 private:
  EmaOptions options_;
  std::vector<FlatGroup> groups_;
  std::vector<NamedTensor> buffers_;
  std::vector<EmaPair> pairs_;  // one of all groups, which lie end to end, then one a buffer
  Tensor steps_;                // int64, one element
  UpdateNumbers numbers_;
  bool swapped_ = false;
};

/// While one lives, the model holds the averages: for evaluation.
class WithAverages {
 public:
  explicit WithAverages(Ema& ema) : ema_(ema) { ema_.swap(); }
  ~WithAverages();  ///< throws nothing: what a device refuses here it refuses the next call too
  WithAverages(const WithAverages&) = delete;
  WithAverages& operator=(const WithAverages&) = delete;

 private:
  Ema& ema_;
};

/// What an update reads from its tensor of numbers.
struct EmaNumbers {
  double gain;  ///< 1 - decay
};
/// average = average + gain (weight - average), of all pairs.
extern Kernel<void(const Tensor& numbers, std::vector<EmaPair>& pairs)> ema_update;
/// Exchanges the elements of a and b.
extern Kernel<void(Tensor& a, Tensor& b)> swap_elements;

}  // namespace dattn
