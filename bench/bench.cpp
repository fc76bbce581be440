// The program `bench`: times layers and whole networks, forward and forward + backward, under the case names of the
// PyTorch peer.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/autograd.h"
#include "core/parallel.h"
#include "layers/conv2d.h"
#include "layers/dattention.h"
#include "layers/loss.h"
#include "train/models.h"

namespace dattn {
namespace {

// What a case runs: `forward` gives the output (or the loss of a network), `clear` drops gradients between steps.
struct Running {
  std::function<Tensor()> forward;
  std::function<void()> clear;
};

struct Case {
  const char* name;
  std::function<Running()> make;
};

Tensor normal_images(const Shape& shape) {
  Tensor x = Tensor::empty(shape);
  const Random random(1, Purpose::test);
  for (std::int64_t i = 0; i < x.elements(); ++i)
    x.data<float>()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  return x;
}

// A layer on an input whose gradient is wanted too.
template <typename Layer>
Running layer_case(Layer layer, const Shape& shape) {
  auto module = std::make_shared<Layer>(std::move(layer));
  auto x = std::make_shared<Tensor>(normal_images(shape));
  return {[=] { return (*module)(*x); },
          [=] {
            x->track();
            zero_grad(*module);
          }};
}

Running dattention_case(std::int64_t batch, const DAttentionOptions& options) {
  Random random(0, Purpose::init);
  return layer_case(DAttention(options, random), {batch, options.q_h, options.q_w, options.channel});
}

Running conv_case(std::int64_t batch, std::int64_t in, std::int64_t out, std::int64_t size) {
  Random random(0, Purpose::init);
  return layer_case(Conv2d(in, out, 3, {.padding = 1}, false, random), {batch, size, size, in});
}

// 500 images through a network, with the loss.
Running network_case(const char* attention) {
  Random random(0, Purpose::init);
  std::shared_ptr<Classifier> model = make_model({"dattn_cnn", attention, 10}, random);
  const Tensor images = normal_images({500, 32, 32, 3});
  Tensor labels = Tensor::empty({500}, Dtype::int64);
  for (std::int64_t i = 0; i < 500; ++i) labels.data<std::int64_t>()[i] = i % 10;
  return {[=] { return cross_entropy(model->forward(images), labels, 0.2, Reduction::sum); },
          [=] { zero_grad(*model); }};
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"dattention_seed", [] { return dattention_case(8, {.channel = 64, .q_h = 32, .q_w = 32}); }},
      {"dattention_seed_table",
       [] { return dattention_case(8, {.channel = 64, .q_h = 32, .q_w = 32, .dwc_pe = false}); }},
      {"dattention_seed_latency", [] { return dattention_case(1, {.channel = 64, .q_h = 32, .q_w = 32}); }},
      {"dattention_15x15", [] { return dattention_case(128, {.channel = 64, .q_h = 15, .q_w = 15}); }},
      {"dattention_7x7", [] { return dattention_case(256, {.channel = 256, .q_h = 7, .q_w = 7}); }},
      {"dattention_stride4",
       [] { return dattention_case(4, {.channel = 64, .q_h = 64, .q_w = 64, .stride = 4, .ksize = 5}); }},
      {"dattention_256px_stride8",
       [] { return dattention_case(1, {.channel = 64, .q_h = 256, .q_w = 256, .stride = 8, .ksize = 9}); }},
      {"conv_24_64_31", [] { return conv_case(128, 24, 64, 31); }},
      {"conv_64_256_15", [] { return conv_case(128, 64, 256, 15); }},
      {"conv_256_256_7", [] { return conv_case(256, 256, 256, 7); }},
      {"dattn_cnn", [] { return network_case("dattention"); }},
      {"plain_cnn", [] { return network_case("none"); }},
  };
  return all;
}

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

nlohmann::json time_case(const Case& one, int rounds) {
  const Running running = one.make();
  pool::trim();
  pool::reset_peak();
  const double forward = median_ms(rounds, [&] {
    NoGrad no_grad;
    running.forward();
  });
  const double step = median_ms(rounds, [&] {
    running.clear();
    const Tensor y = running.forward();
    backward(y, Tensor::full(y.shape(), 1));
  });
  return {{"case", one.name},
          {"forward_ms", forward},
          {"step_ms", step},
          {"peak_mb", static_cast<double>(pool::statistics().peak_in_use) / 1e6},
          {"threads", thread_count()}};
}

int run(const std::vector<std::string>& names, int rounds, bool json) {
  if (!json) fmt::print("{:<26}  {:>12}  {:>12}  {:>10}\n", "case", "forward, ms", "step, ms", "peak, MB");
  for (const Case& one : cases()) {
    if (!names.empty() && std::find(names.begin(), names.end(), one.name) == names.end()) continue;
    const nlohmann::json result = time_case(one, rounds);
    if (json) {
      fmt::print("{}\n", result.dump());
    } else {
      fmt::print("{:<26}  {:>12.2f}  {:>12.2f}  {:>10.0f}\n", one.name, result["forward_ms"].get<double>(),
                 result["step_ms"].get<double>(), result["peak_mb"].get<double>());
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
  bool json = false;
  CLI::App app{"Time layers and networks: medians of forward alone and of forward + backward."};
  app.add_option("--case", names, "Case to time, may be repeated [all]")->check(CLI::IsMember(known));
  app.add_option("--threads", threads, "Threads [all processors]")->check(CLI::Range(1, 1024));
  app.add_option("--rounds", rounds, "Calls that the median is taken of")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_flag("--json", json, "One JSON object a line in place of the table");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  if (threads > 0) dattn::set_thread_count(threads);
  return dattn::run(names, rounds, json);
} catch (const std::exception& error) {
  fmt::print(stderr, "bench: {}\n", error.what());
  return 1;
}
