// Cases of layers/linear and layers/conv2d.
#include "layers/conv2d_max_pool.h"
#include "layers/linear.h"
#include "op_cases.h"

namespace dattn::test {

namespace {

struct ConvCase {
  const char* name;
  Shape x, w;
  Conv2dOptions options{};
  bool bias = false;
  std::int64_t shared = 0;  ///< groups that share one depthwise filter bank; 0 for conv2d itself
  bool pool = false;        ///< with max pooling of 2x2
};

OpCase conv_case(const ConvCase& c) {
  const auto make = [c] {
    OpInstance instance;
    instance.inputs = {{"x", normal(c.x, 1)}};
    // Where a maximum is taken, weights that bfloat16 holds: rounding them on the way would choose others.
    const Tensor w = normal(c.w, 2, 0.5);
    const Parameter weight(c.pool ? w.to(Dtype::bfloat16).to(Dtype::float64) : w, Role::matrix);
    const Parameter bias = c.bias ? normal_parameter({c.w[0]}, 3, 0.5, Role::vector) : Parameter();
    instance.parameters = {{"weight", weight}};
    if (bias) instance.parameters.push_back({"bias", bias});
    instance.call = [=](std::span<const Tensor> in) {
      if (c.pool) return conv2d_max_pool2(in[0], Conv2d{weight, bias, c.options});
      return c.shared ? depthwise_conv2d_shared(in[0], weight, bias, c.options, c.shared)
                      : conv2d(in[0], weight, bias, c.options);
    };
    return instance;
  };
  const std::int64_t pixels = c.x[0] * c.x[1] * c.x[2] * std::max<std::int64_t>(1, c.shared);
  return {c.name, make, std::max(pixels, c.w.elements() / std::min(c.w[0], c.w[3]))};
}

OpCase depthwise_add_case(const char* name, std::int64_t channels) {
  const auto make = [channels] {
    const Parameter weight = normal_parameter({channels, 3, 3, 1}, 2, 0.5),
                    bias = normal_parameter({channels}, 3, 0.5, Role::vector);
    const Shape shape{2, 4, 3, channels};
    OpInstance instance;
    instance.inputs = {{"addend", normal(shape, 4)}, {"x", normal(shape, 1)}};
    instance.parameters = {{"weight", weight}, {"bias", bias}};
    instance.call = [=](std::span<const Tensor> in) {
      return depthwise_conv2d_add(in[0], in[1], weight, bias, {.padding = 1, .groups = channels});
    };
    return instance;
  };
  return {name, make, 24};
}

OpCase linear_case(const char* name, const Shape& x, std::int64_t out, bool bias) {
  const auto make = [=] {
    Random random(1, Purpose::test);
    return module_instance(Linear(x[-1], out, bias, random), {{"x", normal(x, 1)}},
                           [](const Linear& module, std::span<const Tensor> in) { return module(in[0]); });
  };
  return {name, make, std::max({x.rows(), x[-1], out})};
}

}  // namespace

std::vector<OpCase> conv_cases() {
  std::vector<OpCase> cases = {
      linear_case("linear", {5, 7}, 3, true),        linear_case("linear_no_bias", {2, 3, 5}, 9, false),
      linear_case("linear_one", {1, 1}, 1, true),    linear_case("linear_many_rows", {67, 9, 5}, 6, true),
      depthwise_add_case("conv2d_depthwise_add", 5), depthwise_add_case("conv2d_depthwise_add_16_channels", 16),
  };
  for (const ConvCase& c : std::vector<ConvCase>{
           {"conv2d", {2, 5, 7, 3}, {4, 3, 3, 3}, {1, 1}, true},
           {"conv2d_no_bias", {1, 4, 3, 2}, {3, 3, 3, 2}, {1, 1}},
           {"conv2d_no_padding", {3, 5, 4, 2}, {5, 2, 3, 2}, {}, true},
           {"conv2d_2x2", {2, 5, 6, 3}, {24, 2, 2, 3}, {}, true},
           {"conv2d_stride2", {2, 7, 6, 3}, {5, 3, 3, 3}, {2, 1}, true},
           {"conv2d_stride3_kernel2", {1, 8, 9, 2}, {3, 2, 2, 2}, {3, 0}},
           {"conv2d_dilation", {1, 7, 8, 3}, {4, 3, 2, 3}, {1, 2, 2}, true},
           {"conv2d_everything", {2, 9, 7, 6}, {9, 3, 2, 2}, {2, 3, 2, 3}, true},
           {"conv2d_padding_beyond_kernel", {1, 3, 4, 2}, {3, 2, 2, 2}, {1, 3}, true},
           {"conv2d_kernel_of_the_image", {2, 4, 3, 3}, {5, 4, 3, 3}, {}, true},
           {"conv2d_one_pixel", {2, 1, 1, 3}, {4, 3, 3, 3}, {1, 1}},
           {"conv2d_groups", {2, 4, 5, 6}, {8, 3, 3, 3}, {1, 1, 1, 2}, true},
           {"conv2d_channel_multiplier", {1, 4, 5, 3}, {6, 3, 3, 1}, {1, 1, 1, 3}, true},
           {"conv2d_6_channels", {2, 5, 4, 6}, {6, 3, 3, 6}, {1, 1}},  // a rest of as many columns as a block has rows
           {"conv2d_6_channels_a_group", {2, 4, 5, 12}, {12, 2, 3, 6}, {1, 1, 1, 2}},
           {"conv2d_rest_of_6_columns", {1, 4, 5, 3}, {22, 3, 2, 3}, {1, 1}},
           {"conv2d_rest_of_6_wide_columns", {1, 3, 4, 3}, {70, 2, 2, 3}, {1, 1}, true},
           {"conv2d_wide", {1, 3, 4, 19}, {37, 3, 3, 19}, {1, 1}},
           {"conv2d_7x7", {1, 9, 8, 2}, {3, 7, 7, 2}, {2, 3}, true},
           {"conv2d_one_to_one", {2, 5, 4, 1}, {1, 3, 3, 1}, {1, 1}, true},
           {"conv2d_1x1", {3, 5, 4, 7}, {6, 1, 1, 7}, {}, true},
           {"conv2d_1x1_no_bias", {2, 3, 5, 3}, {5, 1, 1, 3}},
           {"conv2d_1x1_stride2", {2, 5, 4, 3}, {5, 1, 1, 3}, {2}, true},
           {"conv2d_1x1_padding", {1, 3, 2, 3}, {4, 1, 1, 3}, {1, 1}, true},
           {"conv2d_depthwise", {2, 5, 4, 7}, {7, 3, 3, 1}, {1, 1, 1, 7}, true},
           {"conv2d_depthwise_no_bias", {1, 5, 6, 5}, {5, 3, 2, 1}, {1, 0, 1, 5}},
           {"conv2d_depthwise_wide", {1, 3, 4, 37}, {37, 3, 3, 1}, {1, 1, 1, 37}, true},
           {"conv2d_depthwise_16_channels", {1, 5, 3, 16}, {16, 3, 3, 1}, {1, 1, 1, 16}, true},
           {"conv2d_depthwise_5x3_8_channels", {2, 6, 5, 8}, {8, 5, 3, 1}, {2, 2, 1, 8}, true},
           {"conv2d_depthwise_stride2", {2, 7, 6, 3}, {3, 3, 3, 1}, {2, 1, 1, 3}, true},
           {"conv2d_depthwise_stride_of_kernel", {1, 8, 6, 3}, {3, 2, 2, 1}, {2, 0, 1, 3}, true},
           {"conv2d_depthwise_dilation", {1, 9, 7, 4}, {4, 3, 3, 1}, {2, 3, 2, 4}, true},
           {"conv2d_depthwise_5x5", {1, 3, 4, 3}, {3, 5, 5, 1}, {1, 2, 1, 3}, true},
           {"conv2d_shared_depthwise", {2, 4, 5, 12}, {4, 3, 3, 1}, {1, 1, 1, 4}, true, 3},
           {"conv2d_shared_depthwise_24_channels", {1, 4, 3, 24}, {8, 3, 3, 1}, {1, 1, 1, 8}, true, 3},
           {"conv2d_shared_depthwise_stride2", {1, 6, 5, 6}, {3, 3, 3, 1}, {2, 1, 1, 3}, true, 2},
           {"conv2d_shared_depthwise_one_filter", {1, 4, 5, 3}, {1, 3, 3, 1}, {1, 1, 1, 1}, false, 3},
           {"conv2d_max_pool2", {2, 5, 7, 3}, {4, 3, 3, 3}, {1, 1}, true, 0, true},
           {"conv2d_max_pool2_16_channels", {2, 7, 6, 16}, {17, 3, 3, 16}, {1, 1}, true, 0, true},
           {"conv2d_max_pool2_stride2", {1, 9, 8, 3}, {4, 3, 2, 3}, {2, 0}, false, 0, true},
       }) {
    cases.push_back(conv_case(c));
  }
  return cases;
}

}  // namespace dattn::test
