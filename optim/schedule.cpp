// Schedules: their formulas.
#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "core/error.h"

namespace dattn::schedule {

namespace {

// Both give `from` at t = 0 and `to` at t = 1 exactly.
double line(double from, double to, double t) { return from * (1 - t) + to * t; }
double half_wave(double from, double to, double t) { return line(from, to, (1 - std::cos(std::numbers::pi * t)) / 2); }

double place(std::int64_t step, std::int64_t steps) {
  return std::clamp(static_cast<double>(step) / static_cast<double>(steps), 0.0, 1.0);
}

void check_steps(const char* schedule, std::int64_t steps) {
  check(steps >= 1, "{}: steps expected to be at least 1, got {}", schedule, steps);
}

}  // namespace

Schedule constant(double value) {
  return [=](std::int64_t) { return value; };
}

Schedule linear(double from, double to, std::int64_t steps) {
  check_steps("linear", steps);
  return [=](std::int64_t step) { return line(from, to, place(step, steps)); };
}

Schedule cosine(double from, double to, std::int64_t steps) {
  check_steps("cosine", steps);
  return [=](std::int64_t step) { return half_wave(from, to, place(step, steps)); };
}

Schedule one_cycle(double peak, std::int64_t steps, OneCycleOptions options) {
  check_steps("one_cycle", steps);
  const double top = options.rise * static_cast<double>(steps) - 1, last = static_cast<double>(steps) - 1;
  check(top > 0 && top < last, "one_cycle: rise {} of {} steps leaves no step to rise or to fall", options.rise, steps);
  check(options.start_divisor > 0 && options.final_divisor > 0, "one_cycle: divisors expected above 0, got {} and {}",
        options.start_divisor, options.final_divisor);
  const double first_value = peak / options.start_divisor, last_value = first_value / options.final_divisor;
  const auto anneal = options.anneal == Anneal::cosine ? half_wave : line;
  return [=](std::int64_t step) {
    const double at = std::clamp(static_cast<double>(step), 0.0, last);
    return at <= top ? anneal(first_value, peak, at / top) : anneal(peak, last_value, (at - top) / (last - top));
  };
}

Schedule warm_up(std::int64_t steps, Schedule after) {
  check_steps("warm_up", steps);
  check(static_cast<bool>(after), "warm_up: expected a schedule to follow");
  return [steps, after = std::move(after)](std::int64_t step) { return after(step) * place(step + 1, steps); };
}

}  // namespace dattn::schedule
