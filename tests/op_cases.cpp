// Joins the groups of cases, and makes their numbers.
#include "op_cases.h"

namespace dattn::test {

std::vector<OpCase> op_cases() {
  std::vector<OpCase> all;
  for (auto group : {basic_cases, conv_cases, sample_cases, activation_cases, norm_cases, pool_cases, dattention_cases,
                     attention_cases}) {
    auto cases = group();
    all.insert(all.end(), std::make_move_iterator(cases.begin()), std::make_move_iterator(cases.end()));
  }
  return all;
}

void PrintTo(const OpCase& op_case, std::ostream* out) { *out << op_case.name; }

Tensor normal(const Shape& shape, std::uint32_t lane, double scale, double mean) {
  const Random random(42, Purpose::test, 0, lane);
  Tensor x = Tensor::empty(shape, Dtype::float64);
  for (std::int64_t i = 0; i < x.elements(); ++i)
    x.data<double>()[i] = mean + scale * random.normal(static_cast<std::uint64_t>(i));
  return x;
}

Parameter normal_parameter(const Shape& shape, std::uint32_t lane, double scale, Role role) {
  return Parameter(normal(shape, lane, scale), role);
}

void randomise(const std::vector<NamedParameter>& parameters, double scale) {
  std::uint32_t lane = 1000;
  for (const auto& [name, p] : parameters) {
    p.value().copy_from(normal(p.shape(), lane++, scale));
  }
}

}  // namespace dattn::test
