// Schedules: pure functions of the step (0, 1, ...) for learning rates, momenta and whatever else follows the time.
#pragma once

#include <cstdint>
#include <functional>

namespace dattn {

/// The value at a step. Steps before the first give the first value, steps beyond the last the last.
using Schedule = std::function<double(std::int64_t step)>;

/// All are an Error for less than one step.
namespace schedule {

Schedule constant(double value);

/// from (1 - t) + to t with t = step / steps.
Schedule linear(double from, double to, std::int64_t steps);

/// to + (from - to) (1 + cos(pi t)) / 2 with t = step / steps: PyTorch's CosineAnnealingLR in closed form.
Schedule cosine(double from, double to, std::int64_t steps);

enum class Anneal { cosine, linear };

/// As PyTorch's OneCycleLR.
struct OneCycleOptions {
  double rise = 0.3;           ///< part of the steps that rises, in (0, 1): pct_start
  double start_divisor = 25;   ///< the first value is peak / start_divisor: div_factor
  double final_divisor = 1e4;  ///< the last value is the first / final_divisor: final_div_factor
  Anneal anneal = Anneal::cosine;
};

/// Rises to `peak` at step rise * steps - 1 and falls to the last value at step steps - 1: PyTorch's OneCycleLR with
/// two phases. Error for options out of range, and where no step is left to rise or to fall.
Schedule one_cycle(double peak, std::int64_t steps, OneCycleOptions options = {});

/// `after` times min(1, (step + 1) / steps): a warm-up laid over any schedule, which keeps its own place.
Schedule warm_up(std::int64_t steps, Schedule after);

}  // namespace schedule
}  // namespace dattn
