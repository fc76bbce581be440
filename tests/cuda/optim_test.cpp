// Optimizers, averages and norms on the device against those on the CPU in float32, by steps and by replayed updates,
// and Newton-Schulz in bfloat16 against PyTorch's.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/ops.h"
#include "cuda/enable.h"
#include "cuda/memory.h"
#include "cuda/step_graph.h"
#include "optim/ema.h"
#include "optim/gradient_norm.h"
#include "optim_model.h"
#include "slots.h"

namespace dattn::test {
namespace {

class CudaOptim : public testing::Test {
 protected:
  void SetUp() override { cuda::enable(); }
};

// Expects that both have the same tensors within `bound` of their largest values.
void expect_same_state(const std::vector<NamedTensor>& got, const std::vector<NamedTensor>& expected, double bound) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].name, expected[i].name);
    expect_near(got[i].tensor, expected[i].tensor.to(Device::cpu).to(Dtype::float64), bound, expected[i].name.c_str());
  }
}

TEST_F(CudaOptim, StepsEqualTheCpus) {
  for (const MakeOptimizer& make : every_optimizer()) {
    for (const std::int64_t size : {5, 150}) {  // less than a block, and several
      Training here(make, size), there(make, size, Device::cuda);
      here.steps(0, 5);
      there.steps(0, 5);
      expect_near(there.flat.values(), here.flat.values().to(Dtype::float64), 1e-5, here.optimizer->name());
      expect_same_state(there.optimizer->state(), here.optimizer->state(), 1e-5);
    }
  }
}

TEST_F(CudaOptim, ReplayedUpdatesAreStepsToTheSameBits) {
  for (const MakeOptimizer& make : every_optimizer()) {
    Training steps(make, 5, Device::cuda), replayed(make, 5, Device::cuda);
    steps.steps(0, 6);
    replayed.steps(0, 2);
    replayed.replay(2, 6);
    EXPECT_EQ(doubles(steps.flat.values()), doubles(replayed.flat.values())) << steps.optimizer->name();
    expect_same_state(replayed.optimizer->state(), steps.optimizer->state(), 0);
  }
}

// The update and the average, captured once: replays read other numbers.
TEST_F(CudaOptim, CapturedUpdatesGiveTheBitsOfSteps) {
  for (const MakeOptimizer& make : every_optimizer()) {
    Training stepped(make, 5, Device::cuda), captured(make, 5, Device::cuda);
    Ema average(stepped.flat, {}, {.warm_up = true}), captured_average(captured.flat, {}, {.warm_up = true});
    cuda::StepGraph graph;
    for (std::int64_t step = 0; step < 6; ++step) {
      stepped.steps(step, step + 1);
      average.step();
      Tensor numbers = Tensor::empty({captured_average.numbers().elements()}, Dtype::float64);
      captured_average.write_numbers(step + 1, numbers.data<double>());
      captured_average.numbers().copy_from(numbers);
      captured.replay(step, step + 1, [&] {
        graph.run([&] {
          captured.optimizer->update();
          captured_average.update();
        });
      });
      captured_average.count_steps(1);
    }
    EXPECT_EQ(doubles(captured.flat.values()), doubles(stepped.flat.values())) << stepped.optimizer->name();
    expect_same_state(captured.optimizer->state(), stepped.optimizer->state(), 0);
    expect_same_state(captured_average.state(), average.state(), 0);
  }
}

TEST_F(CudaOptim, StateMovesBetweenDevices) {
  for (const MakeOptimizer& make : every_optimizer()) {
    for (const auto& [from, to] : {std::pair{Device::cpu, Device::cuda}, {Device::cuda, Device::cpu}}) {
      Training whole(make), first(make, 5, from), second(make, 5, to);
      whole.steps(0, 5);
      first.steps(0, 3);
      Tensor(second.flat.values()).copy_from(first.flat.values());
      const auto saved = first.optimizer->state(), loaded = second.optimizer->state();
      for (std::size_t i = 0; i < saved.size(); ++i) Tensor(loaded[i].tensor).copy_from(saved[i].tensor);
      second.steps(3, 5);
      EXPECT_EQ(second.optimizer->steps(), 5);
      expect_near(second.flat.values(), whole.flat.values().to(Dtype::float64), 1e-5, whole.optimizer->name());
    }
  }
}

TEST_F(CudaOptim, AParameterSwitchedOffKeepsValueAndState) { expect_switched_off_parameters_stay(Device::cuda); }

TEST_F(CudaOptim, AStepTakesNoNewMemory) {
  if (!cuda::device_pool::caching()) GTEST_SKIP() << "the pool keeps no blocks here";
  for (const MakeOptimizer& make : every_optimizer()) {
    Training run(make, 5, Device::cuda);
    run.optimizer->step();
    const auto requests = cuda::device_pool::statistics().system_requests;
    for (int i = 0; i < 3; ++i) run.optimizer->step();
    EXPECT_EQ(cuda::device_pool::statistics().system_requests, requests) << run.optimizer->name();
  }
}

TEST_F(CudaOptim, GroupsOfTwoDevicesAreRefused) {
  OptimModel here(Dtype::float32), there(Dtype::float32, 5, Device::cuda);
  FlatParameters a({here.parameters}), b({there.parameters});
  EXPECT_THROW(Sgd({{a.group(0), 0.1}, {b.group(0), 0.1}}), Error);
}

// --- averages ---

struct Averaged {
  OptimModel model;
  Tensor running;
  std::vector<NamedTensor> statistics;  // more than one launch takes, a long one, and `running`
  FlatParameters flat;
  Ema ema;

  explicit Averaged(Device device)
      : model(Dtype::float32, 5, device),
        running(Tensor::full({3}, 1).to(device)),
        statistics(make_statistics(device)),
        flat(group_by_role(model.parameters, {{Role::matrix}, {Role::vector, Role::table}})),
        ema(flat, statistics, {.decay = 0.9, .warm_up = true}) {}

  void move(std::int64_t step) {
    for (const auto& [name, p] : model.parameters) {
      p.value().copy_from(normal(p.shape(), static_cast<std::uint32_t>(step) + 50));
    }
    for (std::size_t i = 0; i < statistics.size(); ++i) statistics[i].tensor.fill(static_cast<double>(step + i));
    running.fill(static_cast<double>(step));
  }

  std::vector<NamedTensor> make_statistics(Device device) const {
    std::vector<NamedTensor> all;
    for (std::int64_t i = 0; i < 70; ++i)
      all.push_back({fmt::format("statistics{}", i), Tensor::full({i == 40 ? 9000 : 4 * i + 1}, 1).to(device)});
    all.push_back({"running", running});
    return all;
  }
};

TEST_F(CudaOptim, AveragesEqualTheCpusAndChangePlaces) {
  Averaged here(Device::cpu), there(Device::cuda), replayed(Device::cuda);
  Tensor table = Tensor::empty({5, there.ema.numbers().elements()}, Dtype::float64);
  for (std::int64_t n = 0; n < 5; ++n) replayed.ema.write_numbers(n + 1, table.data<double>() + n * table.size(1));
  table = table.to(Device::cuda);
  for (std::int64_t n = 0; n < 5; ++n) {
    for (Averaged* a : {&here, &there}) a->move(n), a->ema.step();
    replayed.move(n);
    replayed.ema.numbers().copy_from(table.slice(n, n + 1));
    replayed.ema.update();
  }
  replayed.ema.count_steps(5);
  expect_same_state(there.ema.state(), here.ema.state(), 1e-6);
  expect_same_state(replayed.ema.state(), there.ema.state(), 0);

  const auto weights = doubles(there.flat.values()), average = doubles(there.ema.state()[2].tensor);
  const Tensor conv = there.model.parameters[2].parameter.value();
  {
    const WithAverages averages(there.ema);
    EXPECT_EQ(doubles(conv), average);
    EXPECT_NEAR(doubles(there.running)[0], here.ema.state().back().tensor.at(0), 1e-6);
  }
  EXPECT_EQ(doubles(there.flat.values()), weights);

  Averaged loaded(Device::cuda);
  const auto from = here.ema.state(), to = loaded.ema.state();
  for (std::size_t i = 0; i < from.size(); ++i) Tensor(to[i].tensor).copy_from(from[i].tensor);
  expect_same_state(loaded.ema.state(), here.ema.state(), 0);
}

// --- norms ---

TEST_F(CudaOptim, NormsOfManySizes) {
  for (const std::int64_t n : {0, 1, 33, 4097, 100'003}) {
    const Tensor x = normal({n}, 3).to(Dtype::float32);
    EXPECT_NEAR(norm(x.to(Device::cuda)), norm(x), 1e-12 * norm(x)) << n;
  }
}

TEST_F(CudaOptim, ClipsLikeTheCpu) {
  OptimModel here(Dtype::float32, 300), there(Dtype::float32, 300, Device::cuda);
  FlatParameters a({here.parameters}), b({there.parameters});
  here.set_gradients(0);
  there.set_gradients(0);
  for (const double most : {1e4, 2.0}) {
    const double before = clip_gradient_norm(a, most);
    EXPECT_NEAR(clip_gradient_norm(b, most), before, 1e-12 * before);
    EXPECT_EQ(doubles(b.grads()), doubles(a.grads()));
  }
  there.parameters[0].parameter.grad().fill(1e30);  // squares beyond float32
  EXPECT_TRUE(std::isfinite(norm(b.grads())));
  there.parameters[3].parameter.grad().fill(std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isinf(clip_gradient_norm(b, 1)));
  there.parameters[3].parameter.grad().fill(std::numeric_limits<double>::quiet_NaN());
  EXPECT_TRUE(std::isnan(clip_gradient_norm(b, 1)));
  EXPECT_EQ(doubles(there.parameters[0].parameter.grad())[0], static_cast<double>(1e30f));
}

// --- Newton-Schulz ---

// alpha x + beta y, in float64.
Tensor blend(double alpha, const Tensor& x, double beta, const Tensor& y) {
  return add(scale(x, alpha), scale(y, beta));
}

// The iteration as PyTorch writes it, in float64 or with every result rounded to bfloat16.
Tensor literal(const Tensor& u, int steps, Dtype held) {
  const auto hold = [&](const Tensor& x) { return rounded(x, held); };
  Tensor x = hold(scale(hold(u), 1 / norm(hold(u))));
  const bool tall = x.size(0) > x.size(1);
  for (int i = 0; i < steps; ++i) {
    const Tensor s = hold(tall ? matmul(x, x, Trans::yes, Trans::no) : matmul(x, x, Trans::no, Trans::yes));
    const Tensor p = hold(blend(kMuonB, s, kMuonC, matmul(s, s)));
    x = hold(blend(kMuonA, x, 1, tall ? matmul(x, p) : matmul(p, x)));
  }
  return x;
}

double error(const Tensor& got, const Tensor& expected) {
  return norm(blend(1, got.to(Device::cpu).to(Dtype::float64), -1, expected)) / norm(expected);
}

TEST_F(CudaOptim, NewtonSchulzIsAsAccurateAsItsType) {
  const Tensor low_rank = matmul(normal({24, 12}, 6), normal({12, 90}, 7));
  for (const Tensor& exact_u : {normal({8, 27}, 3, 10), normal({27, 8}, 3), normal({13, 13}, 4), normal({1, 9}, 5),
                                normal({9, 1}, 5), normal({48, 300}, 6), low_rank}) {
    const Tensor u = rounded(exact_u, Dtype::float32), there = on_device(u);
    for (const int steps : {1, 3, 5}) {
      const Tensor expected = literal(u, steps, Dtype::float64);
      const double torch = error(literal(u, steps, Dtype::bfloat16), expected);
      EXPECT_LE(error(orthogonalise(there, {.steps = steps}), expected), 1.25 * torch + 1e-3) << u.shape().text();
      EXPECT_LE(error(orthogonalise(there, {.steps = steps, .bfloat16_on_device = false}), expected), 2e-5)
          << u.shape().text();
    }
  }
  EXPECT_EQ(norm(orthogonalise(Tensor::zeros({3, 5}).to(Device::cuda))), 0);
}

// Three of one shape, which go through each product together, one that is not trained and one apart.
TEST_F(CudaOptim, MuonOfManyMatricesEqualsTheCpus) {
  for (const Shape& shape : {Shape{8, 3, 3, 16}, Shape{48, 5}}) {
    const auto train = [&](Device device, MuonOptions options) {
      std::vector<NamedParameter> parameters;
      for (std::uint32_t i = 0; i < 6; ++i) {
        Parameter p = normal_parameter(i < 5 ? shape : Shape{6, 10}, i);
        p.to(Dtype::float32);
        p.grad().copy_from(normal(p.shape(), 10 + i));
        p.to(device);
        parameters.push_back({"w" + std::to_string(i), p});
      }
      parameters[3].parameter.set_trainable(false);
      FlatParameters flat({parameters});
      Muon muon({{flat.group(0), 0.24, 0.1}}, options);
      for (int i = 0; i < 2; ++i) muon.step();
      return flat.values().to(Device::cpu).to(Dtype::float64);
    };
    MuonOptions options{.momentum = 0.6, .scale = MuonScale::match_rms_adamw, .normalise_weights = true};
    const Tensor expected = train(Device::cpu, options);
    expect_near(train(Device::cuda, options), expected, 0.02, "bfloat16");
    options.newton_schulz.bfloat16_on_device = false;
    expect_near(train(Device::cuda, options), expected, 1e-5, "float32");
  }
}

}  // namespace
}  // namespace dattn::test
