// A small set of parameters with gradients that follow a fixed course, for the tests of optimizers.
#pragma once

#include <vector>

#include "core/flat_parameters.h"
#include "op_cases.h"
#include "optim/optimizer.h"

namespace dattn::test {

/// Two matrices (one a filter bank), a vector and a table, in one flat group or one a role.
struct OptimModel {
  std::vector<NamedParameter> parameters;

  explicit OptimModel(Dtype dtype = Dtype::float64, std::int64_t size = 5) {
    add("linear.weight", {size, 7}, Role::matrix, dtype);
    add("linear.bias", {7}, Role::vector, dtype);
    add("conv.weight", {size, 3, 3, 2}, Role::matrix, dtype);
    add("table", {3, 3}, Role::table, dtype);
  }

  /// The gradients of step `step`: normal numbers, the same in every run and type.
  void set_gradients(std::int64_t step) const {
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& p = parameters[i].parameter;
      p.grad().copy_from(
          normal(p.shape(), static_cast<std::uint32_t>(100 * (step + 1)) + static_cast<std::uint32_t>(i)));
    }
  }

 private:
  void add(const char* name, const Shape& shape, Role role, Dtype dtype) {
    const auto lane = static_cast<std::uint32_t>(parameters.size());
    Parameter p = normal_parameter(shape, lane, 1, role);
    p.to(dtype);
    parameters.push_back({name, p});
  }
};

inline std::vector<double> doubles(const Tensor& x) {
  const Tensor y = x.to(Dtype::float64);
  return {y.data<double>(), y.data<double>() + y.elements()};
}

/// Largest |x - expected| / max(1, |expected|).
inline double error_of(const Tensor& x, const std::vector<double>& expected) {
  double worst = 0;
  const std::vector<double> values = doubles(x);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    worst = std::max(worst, std::abs(values[i] - expected[i]) / std::max(1.0, std::abs(expected[i])));
  }
  return worst;
}

}  // namespace dattn::test
