// A small set of parameters with gradients that follow a fixed course, and their training by every optimizer, for the
// tests of optimizers on any device.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <vector>

#include "core/flat_parameters.h"
#include "op_cases.h"
#include "optim/adam.h"
#include "optim/gradient_norm.h"
#include "optim/muon.h"
#include "optim/sgd.h"

namespace dattn::test {

/// Two matrices (one a filter bank), a vector and a table, in one flat group or one a role.
struct OptimModel {
  std::vector<NamedParameter> parameters;

  explicit OptimModel(Dtype dtype = Dtype::float64, std::int64_t size = 5, Device device = Device::cpu) {
    add("linear.weight", {size, 7}, Role::matrix, dtype, device);
    add("linear.bias", {7}, Role::vector, dtype, device);
    add("conv.weight", {size, 3, 3, 2}, Role::matrix, dtype, device);
    add("table", {3, 3}, Role::table, dtype, device);
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
  void add(const char* name, const Shape& shape, Role role, Dtype dtype, Device device) {
    const auto lane = static_cast<std::uint32_t>(parameters.size());
    Parameter p = normal_parameter(shape, lane, 1, role);
    p.to(dtype);
    p.to(device);
    parameters.push_back({name, p});
  }
};

using MakeOptimizer = std::function<std::unique_ptr<Optimizer>(std::vector<ParameterGroup>)>;

/// Every optimizer; Muon takes the first group alone.
inline std::vector<MakeOptimizer> every_optimizer() {
  const NewtonSchulz exact{.bfloat16_on_device = false};
  const MuonOptions normalising{.momentum = 0.6, .newton_schulz = exact, .normalise_weights = true};
  return {
      [](auto groups) { return std::make_unique<Sgd>(groups); },
      [](auto groups) {
        return std::make_unique<Sgd>(groups, SgdOptions{0.9, true});
      },
      [](auto groups) { return std::make_unique<Adam>(groups); },
      [](auto groups) { return std::make_unique<AdamW>(groups); },
      [=](auto groups) { return std::make_unique<Muon>(std::vector{groups[0]}, MuonOptions{.newton_schulz = exact}); },
      [=](auto groups) { return std::make_unique<Muon>(std::vector{groups[0]}, normalising); }};
}

/// A model in float32, matrices in one group and the rest in another, and an optimizer whose rates change every step.
struct Training {
  OptimModel model;
  FlatParameters flat;
  std::unique_ptr<Optimizer> optimizer;

  explicit Training(const MakeOptimizer& make, std::int64_t size = 5, Device device = Device::cpu)
      : model(Dtype::float32, size, device),
        flat(group_by_role(model.parameters, {{Role::matrix}, {Role::vector, Role::table}})),
        optimizer(make({{flat.group(0), 0, 0.1, 0.5}, {flat.group(1)}})) {}

  void steps(std::int64_t begin, std::int64_t end) {
    for (std::int64_t step = begin; step < end; ++step) {
      model.set_gradients(step);
      set_rates(step);
      optimizer->step();
    }
  }

  /// The same as replayed updates: numbers of all steps in one table on the device, a row of it before each update.
  void replay(std::int64_t begin, std::int64_t end) {
    replay(begin, end, [this] { optimizer->update(); });
  }
  template <typename Update>
  void replay(std::int64_t begin, std::int64_t end, Update&& update) {
    Tensor rows = Tensor::empty({end - begin, optimizer->numbers().elements()}, Dtype::float64);
    for (std::int64_t step = begin; step < end; ++step) {
      set_rates(step);
      optimizer->write_numbers(step + 1, rows.data<double>() + (step - begin) * rows.size(1));
    }
    const Tensor table = rows.to(flat.values().device());
    for (std::int64_t step = begin; step < end; ++step) {
      model.set_gradients(step);
      optimizer->numbers().copy_from(table.slice(step - begin, step - begin + 1));
      update();
    }
    optimizer->count_steps(end - begin);
  }

 private:
  void set_rates(std::int64_t step) {
    for (std::size_t g = 0; g < optimizer->groups().size(); ++g) {
      optimizer->groups()[g].lr = (g == 0 ? 0.02 : 0.03) / (1 + 0.25 * static_cast<double>(step));
    }
  }
};

inline std::vector<double> doubles(const Tensor& x) {
  const Tensor y = x.to(Device::cpu).to(Dtype::float64);
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

/// Under every optimizer, a parameter that does not learn keeps its value and its state at zero, and the others learn
/// as with it.
inline void expect_switched_off_parameters_stay(Device device) {
  for (const MakeOptimizer& make : every_optimizer()) {
    Training run(make, 5, device), all(make, 5, device);
    const Parameter& off = run.model.parameters[0].parameter;
    off.set_trainable(false);
    const auto before = doubles(off.value());
    run.steps(0, 2);
    all.steps(0, 2);
    EXPECT_EQ(doubles(off.value()), before) << run.optimizer->name();
    for (const NamedTensor& s : run.optimizer->state()) {
      if (s.name.ends_with("linear.weight")) {
        EXPECT_EQ(norm(s.tensor), 0) << s.name;
      }
    }
    for (std::size_t i = 1; i < 4; ++i) {
      EXPECT_EQ(doubles(run.model.parameters[i].parameter.value()), doubles(all.model.parameters[i].parameter.value()));
    }
  }
}

}  // namespace dattn::test
