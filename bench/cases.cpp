// Cases of the benchmark: layers alone, and networks with their loss.
#include "bench/cases.h"

#include <algorithm>
#include <memory>

#include "layers/conv2d.h"
#include "layers/dattention.h"
#include "layers/loss.h"
#include "train/models.h"

namespace dattn {

namespace {

Tensor normal_images(const Shape& shape, Setting setting) {
  Tensor x = Tensor::empty(shape);
  const Random random(1, Purpose::test);
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    x.data<float>()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  return x.to(setting.precision).to(setting.device);
}

// A layer on an input whose gradient is wanted too.
template <typename Layer>
Running running_layer(Layer layer, const Shape& shape, Setting setting) {
  auto module = std::make_shared<Layer>(std::move(layer));
  move_to(*module, setting.device);
  auto x = std::make_shared<Tensor>(normal_images(shape, setting));
  return {[=] { return (*module)(*x); },
          [=] {
            x->track();
            zero_grad(*module);
          }};
}

// --- the least work ---

enum class Passes { forward, both };

// A kernel x kernel convolution to maps of size x size that keeps the size: forward, both gradients, and its activation
// in and out. The cheapest 3x3 convolution has 36 products for 16 outputs in place of 144.
Work conv_work(Passes passes, std::int64_t batch, std::int64_t in, std::int64_t out, std::int64_t size,
               std::int64_t kernel = 3) {
  const double pixels = static_cast<double>(batch * size * size), i = static_cast<double>(in),
               o = static_cast<double>(out), k = static_cast<double>(kernel * kernel),
               products = 2 * pixels * i * o * (kernel == 3 ? k / 4 : k);
  return passes == Passes::forward ? Work{products, pixels * (i + o)} : Work{3 * products, pixels * (3 * i + 2 * o)};
}

// Projections of queries, samples and mixes, the scores and mixes with their gradients (seven products, two of them
// forward), and the map in and out.
Work dattention_work(Passes passes, std::int64_t batch, const DAttentionOptions& o) {
  const double pixels = static_cast<double>(o.q_h * o.q_w), n = static_cast<double>(batch),
               samples = static_cast<double>((o.q_h / o.stride) * (o.q_w / o.stride)),
               C = static_cast<double>(o.channel);
  const double projections = n * 2 * 2 * (pixels + samples) * C * C, product = n * 2 * pixels * samples * C,
               map = n * pixels * C;
  return passes == Passes::forward ? Work{projections + 2 * product, 2 * map}
                                   : Work{3 * projections + 7 * product, 4 * map};
}

Work network_work(Passes passes, std::int64_t batch, bool attention) {
  Work sum = conv_work(passes, batch, 3, 24, 31, 2);
  sum += conv_work(passes, batch, 24, 64, 31);
  sum += conv_work(passes, batch, 64, 64, 15);
  sum += conv_work(passes, batch, 64, 256, 15);
  sum += conv_work(passes, batch, 256, 256, 7);
  sum += conv_work(passes, batch, 256, 256, 7);
  sum += conv_work(passes, batch, 256, 256, 3);
  if (attention) {
    sum += dattention_work(passes, batch, {.channel = 64, .q_h = 15, .q_w = 15});
    sum += dattention_work(passes, batch, {.channel = 256, .q_h = 7, .q_w = 7});
  }
  return sum;
}

// --- kinds of cases ---

Case dattention_case(const char* name, std::int64_t batch, const DAttentionOptions& options) {
  const auto make = [=](Setting setting) {
    Random random(0, Purpose::init);
    return running_layer(DAttention(options, random), {batch, options.q_h, options.q_w, options.channel}, setting);
  };
  return {name, make, dattention_work(Passes::both, batch, options)};
}

Case conv_case(const char* name, std::int64_t batch, std::int64_t in, std::int64_t out, std::int64_t size) {
  const auto make = [=](Setting setting) {
    Random random(0, Purpose::init);
    return running_layer(Conv2d(in, out, 3, {.padding = 1}, false, random), {batch, size, size, in}, setting);
  };
  return {name, make, conv_work(Passes::both, batch, in, out, size)};
}

Case inference_case(const char* name, std::int64_t batch) {
  const auto make = [=](Setting setting) -> Running {
    Random random(0, Purpose::init);
    std::shared_ptr<Classifier> model = make_model({"dattn_cnn", "dattention", 10}, random);
    set_training(*model, false);
    move_to(*model, setting.device);
    const Tensor images = normal_images({batch, 32, 32, 3}, setting);
    return {[=] { return model->forward(images); }, [] {}};
  };
  return {name, make, network_work(Passes::forward, batch, true), true};
}

Case network_case(const char* name, const char* attention, std::int64_t batch) {
  const auto make = [=](Setting setting) -> Running {
    Random random(0, Purpose::init);
    std::shared_ptr<Classifier> model = make_model({"dattn_cnn", attention, 10}, random);
    move_to(*model, setting.device);
    const Tensor images = normal_images({batch, 32, 32, 3}, setting);
    Tensor labels = Tensor::empty({batch}, Dtype::int64);
    for (std::int64_t i = 0; i < batch; ++i) labels.data<std::int64_t>()[i] = i % 10;
    labels = labels.to(setting.device);
    return {[=] { return cross_entropy(model->forward(images), labels, 0.2, Reduction::sum); },
            [=] { zero_grad(*model); }};
  };
  return {name, make, network_work(Passes::both, batch, attention != std::string("none"))};
}

Case heavy(Case one) {
  one.heavy = true;
  return one;
}

std::vector<Case> make_cases() {
  const DAttentionOptions seed{.channel = 64, .q_h = 32, .q_w = 32};
  DAttentionOptions table = seed;
  table.dwc_pe = false;
  return {
      dattention_case("dattention_seed", 8, seed),
      dattention_case("dattention_seed_table", 8, table),
      dattention_case("dattention_seed_latency", 1, seed),
      dattention_case("dattention_15x15", 128, {.channel = 64, .q_h = 15, .q_w = 15}),
      dattention_case("dattention_7x7", 256, {.channel = 256, .q_h = 7, .q_w = 7}),
      dattention_case("dattention_stride4", 4, {.channel = 64, .q_h = 64, .q_w = 64, .stride = 4, .ksize = 5}),
      dattention_case("dattention_256px_stride8", 1, {.channel = 64, .q_h = 256, .q_w = 256, .stride = 8, .ksize = 9}),
      heavy(dattention_case("dattention_1024px_stride8", 1,
                            {.channel = 64, .q_h = 1024, .q_w = 1024, .stride = 8, .dwc_pe = false, .ksize = 9})),
      conv_case("conv_24_64_31", 128, 24, 64, 31),
      conv_case("conv_64_256_15", 128, 64, 256, 15),
      conv_case("conv_256_256_7", 256, 256, 256, 7),
      network_case("dattn_cnn", "dattention", 500),
      heavy(network_case("dattn_cnn_2000", "dattention", 2000)),
      network_case("plain_cnn", "none", 500),
      inference_case("dattn_cnn_one_image", 1),
      inference_case("dattn_cnn_evaluation", 500),
  };
}

}  // namespace

const std::vector<Case>& cases() {
  static const std::vector<Case> all = make_cases();
  return all;
}

}  // namespace dattn
