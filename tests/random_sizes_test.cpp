// Every layer's loops with sizes that nobody chose: each instruction set gives in float64 what plain code gives, and in
// float32 what float64 does. Formulas are the table of cases' business; this is about the ends of vectors, blocks and
// tiles. Convolutions and DAttention have the same in their own files, against their definitions.
#include <gtest/gtest.h>

#include <optional>

#include "core/ops.h"
#include "instruction_sets.h"
#include "layers/activation.h"
#include "layers/batchnorm_gelu.h"
#include "layers/conv2d_max_pool.h"
#include "layers/grid_sample.h"
#include "layers/groupnorm.h"
#include "layers/layernorm.h"
#include "layers/linear.h"
#include "layers/loss.h"
#include "layers/pool2d.h"
#include "layers/self_attention.h"
#include "op_compare.h"
#include "pick.h"
#include "small.h"

namespace dattn::test {
namespace {

Shape random_image(Pick& pick, std::int64_t channels) {
  const std::int64_t images = pick.small(1, 5), height = pick.small(1, 11), width = pick.small(1, 19);
  return {images, height, width, channels};
}

using Call = std::function<Tensor(std::span<const Tensor>)>;

OpInstance of_one(const Shape& shape, Call call) { return {{{"x", normal(shape, 1)}}, {}, std::move(call), {}}; }

OpInstance linear_of(Pick& pick) {
  const std::int64_t rows = pick.small(1, 300), inputs = pick.small(1, 90), outputs = pick.small(1, 90);
  const Parameter w = normal_parameter({outputs, inputs}, 2), b = normal_parameter({outputs}, 3, 1, Role::vector);
  return {{{"x", normal({rows, inputs}, 1)}}, {{"w", w}, {"b", b}}, [=](auto in) { return linear(in[0], w, b); }, {}};
}

OpInstance matmul_of(Pick& pick) {
  const std::int64_t batch = pick.small(1, 4), m = pick.small(1, 40), n = pick.small(1, 40), k = pick.small(1, 70);
  const Trans ta = pick(0, 1) ? Trans::yes : Trans::no, tb = pick(0, 1) ? Trans::yes : Trans::no;
  const Shape a = ta == Trans::yes ? Shape{batch, k, m} : Shape{batch, m, k};
  const Shape b = tb == Trans::yes ? Shape{batch, n, k} : Shape{batch, k, n};
  return {{{"a", normal(a, 1)}, {"b", normal(b, 2)}}, {}, [=](auto in) { return matmul(in[0], in[1], ta, tb); }, {}};
}

OpInstance depthwise_of(Pick& pick) {
  const std::int64_t C = pick.small(1, 70), groups = pick.small(1, 4), kernel = pick.small(1, 5);
  const Conv2dOptions options{.stride = pick.small(1, 3), .padding = kernel / 2, .groups = C};
  const Parameter w = normal_parameter({C, kernel, kernel, 1}, 2), b = normal_parameter({C}, 3, 1, Role::vector);
  return {{{"x", normal(random_image(pick, C * groups), 1)}},
          {{"w", w}, {"b", b}},
          [=](auto in) { return depthwise_conv2d_shared(in[0], w, b, options, groups); },
          {}};
}

OpInstance depthwise_add_of(Pick& pick) {
  const std::int64_t C = pick.small(1, 70);
  const Shape shape = random_image(pick, C);
  const Parameter w = normal_parameter({C, 3, 3, 1}, 2), b = normal_parameter({C}, 3, 1, Role::vector);
  return {{{"addend", normal(shape, 4)}, {"x", normal(shape, 1)}},
          {{"w", w}, {"b", b}},
          [=](auto in) { return depthwise_conv2d_add(in[0], in[1], w, b, {.padding = 1, .groups = C}); },
          {}};
}

OpInstance conv_max_pool_of(Pick& pick) {
  const std::int64_t C = pick.small(1, 40), O = pick.small(1, 70);
  const Parameter w = normal_parameter({O, 3, 3, C}, 2), b = normal_parameter({O}, 3, 1, Role::vector);
  const Shape shape{pick.small(1, 4), pick.small(2, 12), pick.small(2, 20), C};
  return {{{"x", normal(shape, 1)}},
          {{"w", w}, {"b", b}},
          [=](auto in) {
            return conv2d_max_pool2(in[0], Conv2d{w, b, {.padding = 1}});
          },
          {}};
}

template <bool kGelu>
OpInstance batchnorm_of(Pick& pick) {
  const std::int64_t C = pick.small(1, 90);
  Shape shape = random_image(pick, C);
  shape = shape.with(0, shape[0] + 3);  // of two values that are nearly one, float32 knows too little
  return module_instance(BatchNorm2d(C, {}), {{"x", normal(shape, 1, 1.5, 0.5)}},
                         [](BatchNorm2d& m, auto in) { return kGelu ? batchnorm_gelu(in[0], m) : m(in[0]); });
}

OpInstance layernorm_of(Pick& pick) {
  const std::int64_t rows = pick.small(1, 100), C = pick.small(4, 300);
  return module_instance(LayerNorm(C, 1e-5), {{"x", normal({rows, C}, 1, 1.5, 0.5)}},
                         [](LayerNorm& m, auto in) { return m(in[0]); });
}

OpInstance groupnorm_of(Pick& pick) {
  const std::int64_t groups = pick.small(1, 5), C = groups * pick.small(4, 20);
  return module_instance(GroupNorm(groups, C, 1e-5), {{"x", normal(random_image(pick, C), 1, 1.5, 0.5)}},
                         [](GroupNorm& m, auto in) { return m(in[0]); });
}

template <auto kPool>
OpInstance pool_of(Pick& pick) {
  const std::int64_t kernel = pick.small(1, 4), stride = pick.small(1, 4), padding = pick.small(0, kernel / 2);
  const Shape shape{pick.small(1, 4), kernel + pick.small(0, 9), kernel + pick.small(0, 14), pick.small(1, 70)};
  return of_one(shape, [=](auto in) { return kPool(in[0], kernel, stride, padding); });
}

OpInstance global_pool_of(Pick& pick) {
  return of_one(random_image(pick, pick.small(1, 90)), [](auto in) { return global_avg_pool(in[0]); });
}

OpInstance grid_sample_of(Pick& pick) {
  const Shape shape = random_image(pick, pick.small(1, 70)), grid{shape[0], pick.small(1, 9), pick.small(1, 9), 2};
  const Padding padding = pick(0, 1) ? Padding::border : Padding::zeros;
  const bool align = pick(0, 1) > 0;
  return {{{"x", normal(shape, 1)}, {"grid", normal(grid, 2, 0.7), true}},
          {},
          [=](auto in) { return grid_sample(in[0], in[1], padding, align); },
          {}};
}

OpInstance softmax_of(Pick& pick) {
  return of_one({pick.small(1, 60), pick.small(1, 90)}, [](auto in) { return softmax(in[0]); });
}

OpInstance cross_entropy_of(Pick& pick) {
  const std::int64_t rows = pick.small(1, 60), classes = pick.small(2, 90);
  std::vector<std::int64_t> labels;
  for (std::int64_t i = 0; i < rows; ++i) labels.push_back(pick(0, classes - 1));
  return {{{"logits", normal({rows, classes}, 1)}, {"labels", Tensor::from<std::int64_t>({rows}, labels)}},
          {},
          [](auto in) { return cross_entropy(in[0], in[1], 0.1); },
          {}};
}

OpInstance attention_of(Pick& pick) {
  const std::int64_t heads = pick.small(1, 5), C = heads * pick.small(1, 40), images = pick.small(1, 40);
  const std::int64_t queries = pick.small(1, images > 20 ? 20 : 130), keys = pick.small(1, images > 20 ? 20 : 150);
  return {{{"q", normal({images, queries, C}, 1)},
           {"k", normal({images, keys, C}, 2)},
           {"v", normal({images, keys, C}, 3)}},
          {},
          [=](auto in) { return attention(in[0], in[1], in[2], heads); },
          {}};
}

OpInstance activation_of(Pick& pick) {
  using Activation = Tensor (*)(const Tensor& x);
  constexpr Activation kActivations[] = {[](const Tensor& x) { return gelu(x); },
                                         [](const Tensor& x) { return gelu(x, GeluKind::tanh); },
                                         relu,
                                         silu,
                                         sigmoid,
                                         tanh_};
  const Activation activation = kActivations[pick(0, 5)];
  return of_one({pick.small(1, 700)}, [=](auto in) { return activation(in[0]); });
}

OpInstance arithmetic_of(Pick& pick) {
  const Shape shape{pick.small(1, 700)};
  return {{{"a", normal(shape, 1)}, {"b", normal(shape, 2)}},
          {},
          [](auto in) { return add(mul(in[0], in[1]), scale(in[0], 0.3)); },
          {}};
}

OpInstance sum_of(Pick& pick) {
  const Shape shape{pick.small(1, 9), pick.small(1, 60), pick.small(1, 60)};
  const auto dim = static_cast<int>(pick(0, 2));
  return of_one(shape, [=](auto in) { return mean(in[0], dim); });
}

OpInstance layout_of(Pick& pick) {
  const Shape shape{pick.small(1, 9), pick.small(1, 40), pick.small(1, 40)},
      padding{pick.small(0, 2), pick.small(0, 3), pick.small(0, 9)};
  const Shape orders[] = {{0, 2, 1}, {1, 0, 2}, {2, 1, 0}, {1, 2, 0}};
  const Shape order = orders[pick(0, 3)];
  const auto dim = static_cast<int>(pick(0, 2));
  return of_one(shape, [=](auto in) {
    const Tensor y = permute(pad(in[0], padding, padding), order);
    return concat({y, y}, dim);
  });
}

struct Layer {
  const char* name;
  OpInstance (*make)(Pick& pick);
};
void PrintTo(const Layer& layer, std::ostream* out) { *out << layer.name; }

class RandomSizes : public testing::TestWithParam<Layer> {};

TEST_P(RandomSizes, EveryInstructionSetGivesTheSame) {
  Pick pick(1);
  for (int round = 0; round < rounds(60); ++round) {
    const auto made = [&] {  // again with the same sizes
      Pick sizes = pick;
      return GetParam().make(sizes);
    };
    OpInstance plain = made(), exact = made();
    std::string shapes = GetParam().name;
    for (const OpInstance::Input& input : plain.inputs)
      shapes += fmt::format(" {}", describe(input.name.c_str(), input.value));
    for (const NamedParameter& p : plain.parameters)
      shapes += fmt::format(" {}", describe(p.name.c_str(), p.parameter.value()));
    SCOPED_TRACE(shapes);
    std::int64_t terms = 1;
    for (const OpInstance::Input& input : plain.inputs) terms = std::max(terms, input.value.elements());
    const OpCase as_case{GetParam().name, {}, terms};
    round_to_float32(exact);
    std::optional<OpResults> in_plain_code, in_double;
    hwy::GetChosenTarget().Update(HWY_SCALAR);
    in_plain_code = run(plain), in_double = run(exact);
    on_every_instruction_set([&] {
      OpInstance now = made(), single = made();
      to_float32(single);
      expect_close(as_case, run(now), *in_plain_code, 1e-12, 1);
      expect_close(as_case, run(single), *in_double, float_bound(terms), 1);
    });
    if (HasFailure()) return;
    GetParam().make(pick);
  }
}

std::string layer_name(const testing::TestParamInfo<Layer>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Layers, RandomSizes,
                         testing::ValuesIn({Layer{"linear", linear_of},
                                            Layer{"matmul", matmul_of},
                                            Layer{"depthwise", depthwise_of},
                                            Layer{"depthwise_add", depthwise_add_of},
                                            Layer{"conv_max_pool", conv_max_pool_of},
                                            Layer{"batchnorm", batchnorm_of<false>},
                                            Layer{"batchnorm_gelu", batchnorm_of<true>},
                                            Layer{"layernorm", layernorm_of},
                                            Layer{"groupnorm", groupnorm_of},
                                            Layer{"max_pool", pool_of<max_pool2d>},
                                            Layer{"avg_pool", pool_of<avg_pool2d>},
                                            Layer{"global_avg_pool", global_pool_of},
                                            Layer{"grid_sample", grid_sample_of},
                                            Layer{"softmax", softmax_of},
                                            Layer{"cross_entropy", cross_entropy_of},
                                            Layer{"attention", attention_of},
                                            Layer{"activation", activation_of},
                                            Layer{"arithmetic", arithmetic_of},
                                            Layer{"sum", sum_of},
                                            Layer{"layout", layout_of}}),
                         layer_name);

}  // namespace
}  // namespace dattn::test
