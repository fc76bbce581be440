// Updates with rates that change, recorded once: by numbers from tables they give the bits of Optimizer::step() and
// Ema::update().
#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "core/rows.h"
#include "cuda/enable.h"
#include "cuda/step_graph.h"
#include "op_compare.h"
#include "optim/adam.h"
#include "optim/ema.h"
#include "optim/muon.h"
#include "optim/sgd.h"
#include "optim_model.h"

namespace dattn::test {
namespace {

constexpr std::int64_t kSteps = 7;

using MakeOptimizer = std::function<std::unique_ptr<Optimizer>(std::vector<ParameterGroup>)>;

// Parameters on the device with their optimizer and averages. Matrices alone, which all optimizers take.
struct Updated {
  std::vector<NamedParameter> parameters;
  std::unique_ptr<FlatParameters> flat;
  std::unique_ptr<Optimizer> optimizer;
  std::unique_ptr<Ema> ema;

  explicit Updated(const MakeOptimizer& make) {
    for (const auto& p : OptimModel(Dtype::float32).parameters) {
      if (p.parameter.role() == Role::matrix) parameters.push_back(p);
    }
    for (const auto& p : parameters) p.parameter.to(Device::cuda);
    flat = std::make_unique<FlatParameters>(std::vector<std::vector<NamedParameter>>{parameters});
    optimizer = make({{flat->group(0), 0, 0.01, 0.5}});
    ema = std::make_unique<Ema>(*flat, std::vector<NamedTensor>{}, EmaOptions{.decay = 0.9, .warm_up = true});
  }

  void set_rate(std::int64_t step) {
    optimizer->groups()[0].lr = 0.1 * static_cast<double>(kSteps - step) / static_cast<double>(kSteps);
  }

  // All that updates change, steps apart.
  std::vector<Tensor> state() const {
    std::vector<Tensor> all{flat->values().to(Device::cpu)};
    for (const auto& [name, x] : optimizer->state()) all.push_back(x.to(Device::cpu));
    for (const auto& [name, x] : ema->state()) all.push_back(x.to(Device::cpu));
    return all;
  }
};

Tensor gradients(const Updated& updated, std::int64_t rows) {
  return normal({rows, updated.flat->grads().elements()}, 9).to(Dtype::float32).to(Device::cuda);
}

void run_steps(Updated& updated) {
  const Tensor all = gradients(updated, kSteps);
  for (std::int64_t step = 0; step < kSteps; ++step) {
    Tensor grads = updated.flat->grads();
    grads.copy_from(all.slice(step, step + 1));
    updated.set_rate(step);
    updated.optimizer->step();
    updated.ema->update();
  }
}

// The same by tables with a row a step.
void run_recorded(Updated& updated) {
  Optimizer& optimizer = *updated.optimizer;
  Tensor rates = Tensor::empty({kSteps, optimizer.number_count()}, Dtype::float64),
         decays = Tensor::empty({kSteps, updated.ema->number_count()}, Dtype::float64);
  for (std::int64_t step = 0; step < kSteps; ++step) {
    updated.set_rate(step);
    optimizer.write_numbers(step + 1, rates.data<double>() + step * rates.size(1));
    updated.ema->write_numbers(step, decays.data<double>() + step * decays.size(1));
  }
  rates = rates.to(Device::cuda), decays = decays.to(Device::cuda);
  const Tensor all = gradients(updated, kSteps);
  Tensor index = Tensor::zeros({}, Dtype::int64, Device::cuda), grads = updated.flat->grads();
  cuda::StepGraph graph;
  for (std::int64_t step = 0; step < kSteps; ++step) {
    graph.run([&] {
      take_row(all, index, grads);
      take_row(rates, index, optimizer.numbers());
      take_row(decays, index, updated.ema->numbers());
      optimizer.update();
      updated.ema->apply();
      advance(index);
    });
  }
  optimizer.count_steps(kSteps);
  updated.ema->count_updates(kSteps);
}

void expect_same(const MakeOptimizer& make) {
  cuda::enable();
  Updated by_steps(make), recorded(make);
  run_steps(by_steps);
  run_recorded(recorded);
  const auto expected = by_steps.state(), got = recorded.state();
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(same_bits(got[i], expected[i])) << "tensor " << i;
  EXPECT_EQ(recorded.optimizer->steps(), kSteps);
}

TEST(CudaRecordedUpdates, OfSgd) {
  expect_same([](auto groups) { return std::make_unique<Sgd>(groups, SgdOptions{.momentum = 0.9}); });
}
TEST(CudaRecordedUpdates, OfAdamW) {
  expect_same([](auto groups) { return std::make_unique<AdamW>(groups); });
}
TEST(CudaRecordedUpdates, OfMuon) {
  expect_same([](auto groups) { return std::make_unique<Muon>(groups); });
}

}  // namespace
}  // namespace dattn::test
