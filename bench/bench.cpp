// The program `bench`: times layers and whole networks, forward and forward + backward.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "bench/cases.h"
#include "bench/machine.h"
#include "core/autograd.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "train/models.h"

namespace dattn {
namespace {

// Median milliseconds of f over `rounds` calls, after two that warm up.
double median_ms(int rounds, const std::function<void()>& f) {
  f();
  f();
  std::vector<double> times;
  for (int i = 0; i < rounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    f();
    times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + rounds / 2, times.end());
  return times[static_cast<std::size_t>(rounds / 2)];
}

nlohmann::json time_case(const Case& one, const Machine& machine, int rounds, Dtype precision) {
  const Running running = one.make(precision);
  pool::trim();
  pool::reset_peak();
  const double forward = median_ms(rounds, [&] {
    NoGrad no_grad;
    running.forward();
  });
  nlohmann::json step;  // null in inference
  if (!one.inference) {
    step = median_ms(rounds, [&] {
      running.clear();
      const Tensor y = running.forward();
      backward(y, Tensor::full(y.shape(), 1, y.dtype()));
    });
  }
  const double floor =
      std::max(one.work.operations / machine.operations_per_second, one.work.bytes / machine.bytes_per_second);
  return {{"case", one.name},
          {"forward_ms", forward},
          {"step_ms", step},
          {"peak_mb", static_cast<double>(pool::statistics().peak_in_use) / 1e6},
          {"floor_ms", floor * 1e3},
          {"threads", thread_count()},
          {"precision", name(precision)}};
}

int run(const std::vector<std::string>& names, int rounds, Dtype precision, bool json) {
  const Machine machine = measure_machine();
  if (!json) {
    fmt::print("{} threads, {:.0f} GFLOP/s in float32, {:.1f} GB/s, activations in {}\n\n", thread_count(),
               machine.operations_per_second / 1e9, machine.bytes_per_second / 1e9, name(precision));
    fmt::print("{:<26}  {:>11}  {:>11}  {:>11}  {:>9}\n", "case", "forward, ms", "step, ms", "floor, ms", "peak, MB");
  }
  for (const Case& one : cases()) {
    if (!names.empty() && std::find(names.begin(), names.end(), one.name) == names.end()) continue;
    const nlohmann::json result = time_case(one, machine, rounds, precision);
    const auto number = [&](const char* key) { return result[key].get<double>(); };
    if (json) {
      fmt::print("{}\n", result.dump());
    } else {
      fmt::print("{:<26}  {:>11.2f}  {:>11}  {:>11.2f}  {:>9.0f}\n", one.name, number("forward_ms"),
                 one.inference ? "-" : fmt::format("{:.2f}", number("step_ms")), number("floor_ms"), number("peak_mb"));
    }
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace dattn

int main(int argc, char** argv) try {
  std::vector<std::string> names, known;
  for (const auto& one : dattn::cases()) known.push_back(one.name);
  int threads = 0, rounds = 7;
  bool json = false, list = false;
  std::string precision = "float32";
  CLI::App app{
      "Time layers and networks: medians of forward alone and of forward + backward. The floor is what the measured "
      "peak and bandwidth allow. `./run bench --against torch` compares with PyTorch."};
  app.add_option("--case", names, "Case to time, may be repeated [all]")->check(CLI::IsMember(known));
  app.add_option("--threads", threads, "Threads [all processors]")->check(CLI::Range(1, 1024));
  app.add_option("--rounds", rounds, "Calls that the median is taken of")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("--precision", precision, "Type of activations; weights and sums are float32")
      ->check(CLI::IsMember(std::vector<std::string>(std::begin(dattn::kPrecisions), std::end(dattn::kPrecisions))))
      ->capture_default_str();
  app.add_flag("--json", json, "One JSON object a line in place of the table");
  app.add_flag("--list", list, "Only print the names of the cases");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  if (list) {
    fmt::print("{}\n", fmt::join(known, "\n"));
    return 0;
  }
  if (threads > 0) dattn::set_thread_count(threads);
  return dattn::run(names, rounds, dattn::precision_type(precision), json);
} catch (const std::exception& error) {
  fmt::print(stderr, "bench: {}\n", error.what());
  return 1;
}
