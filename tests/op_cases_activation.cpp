// Cases of layers/activation, layers/dropout and layers/loss.
#include <cmath>

#include "layers/activation.h"
#include "layers/dropout.h"
#include "layers/loss.h"
#include "op_cases.h"

namespace dattn::test {

namespace {

// Normal numbers moved away from 0, where relu has its kink.
Tensor away_from_zero(const Shape& shape, std::uint32_t lane) {
  Tensor x = normal(shape, lane);
  for (std::int64_t i = 0; i < x.elements(); ++i) x.data<double>()[i] += std::copysign(0.1, x.at(i));
  return x;
}

// `roundings`: 3 where the gradient is made from the rounded result, which may nearly cancel; 1 where from the input.
OpCase unary(const char* name, Tensor (*function)(const Tensor&), double scale = 2, int roundings = 1) {
  const auto make = [=] {
    return OpInstance{
        {{"x", normal({3, 5, 7}, 1, scale)}}, {}, [=](std::span<const Tensor> in) { return function(in[0]); }, {}};
  };
  return {name, make, 1, roundings};
}

OpCase softmax_case(const char* name, const Shape& shape) {
  return {name,
          [=] {
            return OpInstance{
                {{"x", normal(shape, 1, 2)}}, {}, [](std::span<const Tensor> in) { return softmax(in[0]); }, {}};
          },
          shape[-1]};
}

OpCase cross_entropy_classes(const char* name, std::int64_t classes, double smoothing, Reduction reduction) {
  return {name,
          [=] {
            Tensor targets = Tensor::empty({5}, Dtype::int64);
            for (std::int64_t n = 0; n < 5; ++n) targets.data<std::int64_t>()[n] = (7 * n + classes - 1) % classes;
            return OpInstance{
                {{"logits", normal({5, classes}, 1, 2)}, {"targets", targets}},
                {},
                [=](std::span<const Tensor> in) { return cross_entropy(in[0], in[1], smoothing, reduction); },
                {}};
          },
          5 * classes};
}

OpCase cross_entropy_soft(const char* name, double smoothing, Reduction reduction) {
  return {name,
          [=] {
            // Not normalised: a row's mass enters the gradient.
            const Tensor targets = normal({3, 11}, 2, 0.1, 0.5);
            return OpInstance{{{"logits", normal({3, 11}, 1, 2)}},
                              {},
                              [=](std::span<const Tensor> in) {
                                return cross_entropy(in[0], targets.to(exact_type(in[0].dtype())).to(in[0].device()),
                                                     smoothing, reduction);
                              },
                              {}};
          },
          33};
}

template <typename M>
OpCase dropping(const char* name, double p) {
  return {name, [=] {
            Random random(5, Purpose::test);
            return module_instance(M(p, random), {{"x", normal({7, 3, 5, 3}, 1)}},
                                   [](const M& module, std::span<const Tensor> in) { return module(in[0]); });
          }};
}

}  // namespace

std::vector<OpCase> activation_cases() {
  return {
      {"relu",
       [] {
         return OpInstance{
             {{"x", away_from_zero({3, 5, 7}, 1)}}, {}, [](std::span<const Tensor> in) { return relu(in[0]); }, {}};
       }},
      unary("gelu_erf", [](const Tensor& x) { return gelu(x); }),
      unary("gelu_tanh", [](const Tensor& x) { return gelu(x, GeluKind::tanh); }),
      unary("silu", silu),
      unary("sigmoid", sigmoid, 2, 3),
      unary("tanh", tanh_),
      softmax_case("softmax_10", {5, 10}),
      softmax_case("softmax_1", {3, 1}),
      softmax_case("softmax_67", {2, 3, 67}),
      softmax_case("softmax_rank1", {9}),
      dropping<Dropout>("dropout", 0.3),
      dropping<DropPath>("drop_path", 0.4),
      cross_entropy_classes("cross_entropy_mean", 10, 0, Reduction::mean),
      cross_entropy_classes("cross_entropy_sum", 3, 0, Reduction::sum),
      cross_entropy_classes("cross_entropy_smooth_mean", 19, 0.2, Reduction::mean),
      cross_entropy_classes("cross_entropy_smooth_sum", 10, 0.1, Reduction::sum),
      cross_entropy_soft("cross_entropy_soft_mean", 0, Reduction::mean),
      cross_entropy_soft("cross_entropy_soft_smooth_sum", 0.1, Reduction::sum),
  };
}

}  // namespace dattn::test
