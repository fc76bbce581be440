// The program `bench`: times layers and whole networks, forward and forward + backward.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "bench/cases.h"
#include "bench/machine.h"
#include "core/autograd.h"
#include "core/memory.h"
#include "core/output.h"
#include "core/parallel.h"
#include "cuda/memory.h"
#include "cuda/profile.h"
#include "cuda/step_graph.h"
#include "cuda/stopwatch.h"
#include "train/command_line.h"

namespace dattn {
namespace {

// Milliseconds of one call, by the host's clock or by events of the device.
class Timer {
 public:
  explicit Timer(Device device) {
    if (device == Device::cuda) watch_.emplace();
  }
  double operator()(const std::function<void()>& f) {
    const auto start = std::chrono::steady_clock::now();
    if (watch_) watch_->start();
    f();
    if (watch_) return watch_->stop();
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  }

 private:
  std::optional<cuda::Stopwatch> watch_;
};

double median(std::vector<double> numbers) {
  std::sort(numbers.begin(), numbers.end());
  const std::size_t middle = numbers.size() / 2;
  return numbers.size() % 2 ? numbers[middle] : (numbers[middle - 1] + numbers[middle]) / 2;
}

// Median milliseconds of f over `rounds` calls, after two that warm up.
double median_ms(int rounds, Device device, const std::function<void()>& f) {
  f();
  f();
  Timer timer(device);
  std::vector<double> times;
  for (int i = 0; i < rounds; ++i) times.push_back(timer(f));
  return median(std::move(times));
}

// The same of f as one recorded graph of the device, as training runs its steps.
double median_replay_ms(int rounds, const std::function<void()>& f) {
  cuda::StepGraph graph;
  graph.run(f);  // one of the two calls ahead of the record; warming up takes the other, and records
  return median_ms(rounds, Device::cuda, [&] { graph.run(f); });
}

// What is timed of a case.
struct Calls {
  std::function<void()> forward;
  std::function<void()> step;  // forward + backward; empty in inference
};

Calls calls_of(const Case& one, const Running& running) {
  const auto forward = [running] {
    const NoGrad no_grad;
    return running.forward();
  };
  if (one.inference) return {forward, {}};
  Tensor dy = Tensor::like(forward());
  dy.fill(1);
  return {forward, [running, dy] {
            running.clear();
            backward(running.forward(), dy);
          }};
}

// Adds the time of a call, null where there is none: on a device that of its graph, and as `eager_<name>` that of the
// call itself, which the host's launches may be the longer part of.
void add_time(nlohmann::json& to, const std::string& name, const std::function<void()>& f, int rounds, Device device) {
  const nlohmann::json called = f ? nlohmann::json(median_ms(rounds, device, f)) : nlohmann::json();
  if (device == Device::cpu) {
    to[name] = called;
    return;
  }
  to["eager_" + name] = called;
  to[name] = f ? nlohmann::json(median_replay_ms(rounds, f)) : nlohmann::json();
}

// The pool of a device.
struct Pool {
  void (*trim)();
  void (*reset_peak)();
  PoolStatistics (*statistics)();
};
constexpr Pool pool_of(Device device) {
  if (device == Device::cpu) return {pool::trim, pool::reset_peak, pool::statistics};
  return {cuda::device_pool::trim, cuda::device_pool::reset_peak, cuda::device_pool::statistics};
}

nlohmann::json time_case(const Case& one, const Machine& machine, int rounds, Setting setting) {
  const Running running = one.make(setting);
  const Pool memory = pool_of(setting.device);
  memory.trim();
  memory.reset_peak();
  const Calls calls = calls_of(one, running);
  nlohmann::json result;
  add_time(result, "forward_ms", calls.forward, rounds, setting.device);
  add_time(result, "step_ms", calls.step, rounds, setting.device);
  const double bytes = one.work.elements * static_cast<double>(size_of(setting.precision));
  const double floor = std::max(one.work.operations / machine.operations_per_second, bytes / machine.bytes_per_second);
  result.update({{"case", one.name},
                 {"peak_mb", static_cast<double>(memory.statistics().peak_in_use) / 1e6},
                 {"floor_ms", floor * 1e3},
                 {"threads", thread_count()},
                 {"precision", name(setting.precision)},
                 {"device", name(setting.device)}});
  return result;
}

void print_head(const Machine& machine, Setting setting) {
  const std::string who = setting.device == Device::cpu ? fmt::format("{} threads", thread_count()) : "the device";
  print_output("{}, {:.0f} GFLOP/s and {:.1f} GB/s, activations in {}\n\n", who, machine.operations_per_second / 1e9,
               machine.bytes_per_second / 1e9, name(setting.precision));
  print_output("{:<26}  {:>11}  {:>11}  {:>11}  {:>9}", "case", "forward, ms", "step, ms", "floor, ms", "peak, MB");
  if (setting.device == Device::cuda) print_output("  {:>17}  {:>14}", "eager forward, ms", "eager step, ms");
  print_output("\n");
}

void print_row(const nlohmann::json& result, Device device) {
  const auto time = [&](const char* key) {
    return result[key].is_null() ? "-" : fmt::format("{:.2f}", result[key].get<double>());
  };
  print_output("{:<26}  {:>11}  {:>11}  {:>11}  {:>9.0f}", result["case"].get<std::string>(), time("forward_ms"),
               time("step_ms"), time("floor_ms"), result["peak_mb"].get<double>());
  if (device == Device::cuda) print_output("  {:>17}  {:>14}", time("eager_forward_ms"), time("eager_step_ms"));
  print_output("\n");
}

// Those named, or all that the device is fit for.
std::vector<Case> chosen_cases(const std::vector<std::string>& names, Device device) {
  std::vector<Case> chosen;
  for (const Case& one : cases()) {
    const bool named = std::find(names.begin(), names.end(), one.name) != names.end();
    if (named || (names.empty() && (!one.heavy || device == Device::cuda))) chosen.push_back(one);
  }
  return chosen;
}

int run(const std::vector<Case>& chosen, int rounds, Setting setting, bool json) {
  const Machine machine =
      setting.device == Device::cpu ? measure_machine(setting.precision) : measure_device(setting.precision);
  if (!json) print_head(machine, setting);
  for (const Case& one : chosen) {
    const nlohmann::json result = time_case(one, machine, rounds, setting);
    if (json) {
      print_output("{}\n", result.dump());
    } else {
      print_row(result, setting.device);
    }
    std::fflush(stdout);
  }
  return 0;
}

// Lets a profiler see one step of each case, or forward in inference, after calls that warm up.
int profile(const std::vector<Case>& chosen, Setting setting) {
  for (const Case& one : chosen) {
    const Calls calls = calls_of(one, one.make(setting));
    const auto& f = calls.step ? calls.step : calls.forward;
    for (int i = 0; i < 3; ++i) f();
    const cuda::Profiled profiled;
    f();
  }
  return 0;
}

}  // namespace
}  // namespace dattn

static int run_bench(int argc, char** argv) {
  std::vector<std::string> names, known;
  for (const auto& one : dattn::cases()) known.push_back(one.name);
  int threads = 0, rounds = 7;
  bool json = false, list = false, profile = false;
  std::string precision = "float32", device = "cpu";
  CLI::App app{
      "Time layers and networks: medians of forward alone and of forward + backward; on a GPU as recorded graphs, and "
      "beside them as single launches (eager). The floor is what the measured peak and bandwidth allow. `./run bench "
      "--against torch` compares with PyTorch."};
  app.add_option("--case", names, "Case to time, may be repeated [all; on the CPU all but the longest]")
      ->check(CLI::IsMember(known));
  dattn::add_threads_option(app, threads);
  app.add_option("--rounds", rounds, "Calls that the median is taken of")
      ->transform(dattn::whole_number(1, 100000))
      ->capture_default_str();
  app.add_option("--precision", precision, "Type of activations; weights and sums are float32")
      ->check(dattn::one_of(dattn::kPrecisions))
      ->capture_default_str();
  dattn::add_device_option(app, device);
  dattn::add_flag(app, "--json", json, "One JSON object a line in place of the table");
  dattn::add_flag(app, "--list", list, "Only print the names of the cases");
  dattn::add_flag(app, "--profile", profile,
                  "Time nothing; a profiler that waits for the program sees one step of each case")
      ->excludes("--json", "--list", "--rounds");
  try {
    app.parse(argc, argv);
    if (profile && device == "cpu") throw CLI::ValidationError("--profile", "belongs to --device cuda");
  } catch (const CLI::ParseError& e) {
    return dattn::exit_after(app, e);
  }
  const dattn::Setting setting{dattn::use_device(device), dattn::precision_type(precision)};
  const auto chosen = dattn::chosen_cases(names, setting.device);
  if (list) {
    for (const auto& one : chosen) dattn::print_output("{}\n", one.name);
    return 0;
  }
  if (threads > 0) dattn::set_thread_count(threads);
  if (profile) {
    dattn::check(setting.device == dattn::Device::cuda, "--profile: --device auto has found no GPU to profile");
    return dattn::profile(chosen, setting);
  }
  return dattn::run(chosen, rounds, setting, json);
}

int main(int argc, char** argv) {
  return dattn::run_program("bench", [&] { return run_bench(argc, argv); });
}
