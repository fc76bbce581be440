// Cases of the normalisations.
#include <cmath>

#include "layers/batchnorm_gelu.h"
#include "layers/groupnorm.h"
#include "layers/layernorm.h"
#include "op_cases.h"

namespace dattn::test {

namespace {

Tensor plain_batchnorm(const Tensor& x, BatchNorm2d& norm) { return norm(x); }

OpCase batchnorm_case(const std::string& name, const Shape& shape, const BatchNormOptions& options = {},
                      bool training = true, Tensor (*call)(const Tensor&, BatchNorm2d&) = plain_batchnorm) {
  return {name,
          [=] {
            BatchNorm2d norm(shape[-1], options);
            norm.training = training;
            norm.running_mean.copy_from(normal({shape[-1]}, 2));
            for (float& v : std::span(norm.running_var.data<float>(), static_cast<std::size_t>(shape[-1]))) v = 0.75f;
            return module_instance(std::move(norm), {{"x", normal(shape, 1, 1.5, 0.5)}},
                                   [=](BatchNorm2d& m, std::span<const Tensor> in) { return call(in[0], m); });
          },
          shape.rows()};
}

OpCase layernorm_case(const std::string& name, const Shape& shape, double eps = 1e-5) {
  return {name,
          [=] {
            return module_instance(LayerNorm(shape[-1], eps), {{"x", normal(shape, 1, 1.5, 0.5)}},
                                   [](LayerNorm& m, std::span<const Tensor> in) { return m(in[0]); });
          },
          shape.elements()};
}

OpCase groupnorm_case(const std::string& name, std::int64_t groups, const Shape& shape, double eps = 1e-5) {
  return {name,
          [=] {
            return module_instance(GroupNorm(groups, shape[-1], eps), {{"x", normal(shape, 1, 1.5, 0.5)}},
                                   [](GroupNorm& m, std::span<const Tensor> in) { return m(in[0]); });
          },
          shape.elements()};
}

}  // namespace

std::vector<OpCase> norm_cases() {
  return {
      batchnorm_case("batchnorm", {3, 5, 7, 3}),
      batchnorm_case("batchnorm_rows", {7, 5}),
      batchnorm_case("batchnorm_two_values", {2, 3}, {.eps = 0.1}),
      batchnorm_case("batchnorm_one_channel", {3, 3, 5, 1}),
      batchnorm_case("batchnorm_24_channels", {2, 3, 3, 24}, {.momentum = 0.4}),
      batchnorm_case("batchnorm_wide", {5, 83}),
      batchnorm_case("batchnorm_frozen_scale", {2, 3, 5, 4}, {.eps = 1e-12, .frozen_scale = true}),
      batchnorm_case("batchnorm_evaluation", {3, 2, 5, 7}, {}, false),
      batchnorm_case("batchnorm_evaluation_one_value", {1, 5}, {.eps = 0.01}, false),
      batchnorm_case("batchnorm_evaluation_frozen_scale", {2, 3, 5, 4}, {.frozen_scale = true}, false),
      batchnorm_case("batchnorm_gelu", {3, 5, 7, 3}, {}, true, batchnorm_gelu),
      batchnorm_case("batchnorm_gelu_rows", {7, 5}, {}, true, batchnorm_gelu),
      batchnorm_case("batchnorm_gelu_wide", {5, 83}, {}, true, batchnorm_gelu),
      batchnorm_case("batchnorm_gelu_frozen_scale", {2, 3, 5, 4}, {.frozen_scale = true}, true, batchnorm_gelu),
      batchnorm_case("batchnorm_gelu_evaluation", {3, 2, 5, 7}, {}, false, batchnorm_gelu),
      batchnorm_case("batchnorm_gelu_evaluation_frozen_scale", {2, 3, 5, 4}, {.frozen_scale = true}, false,
                     batchnorm_gelu),
      layernorm_case("layernorm", {2, 3, 5}),
      layernorm_case("layernorm_one_row", {9}),
      layernorm_case("layernorm_one_channel", {5, 1}),
      layernorm_case("layernorm_16_channels", {2, 3, 3, 16}),
      layernorm_case("layernorm_wide", {3, 83}),
      layernorm_case("layernorm_eps", {7, 6}, 0.5),
      groupnorm_case("groupnorm", 3, {2, 3, 5, 6}),
      groupnorm_case("groupnorm_one_group", 1, {3, 2, 3, 7}),
      groupnorm_case("groupnorm_every_channel", 5, {2, 3, 4, 5}),
      groupnorm_case("groupnorm_rows", 2, {3, 8}),
      groupnorm_case("groupnorm_wide", 4, {2, 1, 2, 68}, 0.1),
  };
}

}  // namespace dattn::test
