// Flat parameters, groups, SGD and Adam against plain loops in double, and continuing from saved state.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <ostream>

#include "core/parallel.h"
#include "count_new.h"
#include "error_text.h"
#include "optim/gradient_norm.h"
#include "optim_model.h"

namespace dattn {
void PrintTo(Dtype dtype, std::ostream* out) { *out << name(dtype); }  // in the tests' names
}  // namespace dattn

namespace dattn::test {
namespace {

// One element's plain update: the new weight from the step (from 1), the weight and the gradient; `state` starts at
// zero.
using PlainUpdate = std::function<double(std::int64_t step, double w, double grad, double (&state)[2])>;

// Runs both over some steps and compares every element of every parameter after each.
void expect_trajectory(Dtype dtype, double bound, const ParameterGroup& numbers, const MakeOptimizer& make,
                       const PlainUpdate& plain) {
  OptimModel model(dtype);
  FlatParameters flat({model.parameters});
  ParameterGroup group = numbers;
  group.flat = flat.group(0);
  const auto optimizer = make({group});
  std::vector<std::vector<double>> expected;
  std::vector<std::vector<std::array<double, 2>>> state;
  for (const auto& [name, p] : model.parameters) {
    expected.push_back(doubles(p.value()));
    state.emplace_back(expected.back().size());
  }
  for (std::int64_t step = 0; step < 8; ++step) {
    model.set_gradients(step);
    optimizer->step();
    for (std::size_t k = 0; k < expected.size(); ++k) {
      const Parameter& p = model.parameters[k].parameter;
      const std::vector<double> grad = doubles(p.grad());
      for (std::size_t i = 0; i < grad.size(); ++i) {
        double plain_state[2] = {state[k][i][0], state[k][i][1]};
        expected[k][i] = plain(step + 1, expected[k][i], grad[i], plain_state);
        state[k][i] = {plain_state[0], plain_state[1]};
      }
      ASSERT_LE(error_of(p.value(), expected[k]), bound) << model.parameters[k].name << " after step " << step;
    }
  }
  EXPECT_EQ(optimizer->steps(), 8);
}

class Sgds : public testing::TestWithParam<std::tuple<Dtype, double, bool>> {};

TEST_P(Sgds, EqualThePlainLoop) {
  const auto [dtype, momentum, nesterov] = GetParam();
  const double lr = 0.1, decay = 0.005, scale = 0.5, mu = momentum;
  const bool looks_ahead = nesterov;
  expect_trajectory(
      dtype, dtype == Dtype::float64 ? 1e-14 : 2e-6, {{}, lr, decay, scale},
      [&](auto groups) {
        return std::make_unique<Sgd>(groups, SgdOptions{mu, looks_ahead});
      },
      [&](std::int64_t, double w, double grad, double(&state)[2]) {
        const double g = scale * grad + decay * w;
        state[0] = mu * state[0] + g;
        return w - lr * (looks_ahead ? g + mu * state[0] : state[0]);
      });
}

INSTANTIATE_TEST_SUITE_P(Optim, Sgds,
                         testing::Combine(testing::Values(Dtype::float64, Dtype::float32), testing::Values(0.9),
                                          testing::Bool()));
INSTANTIATE_TEST_SUITE_P(OptimNoMomentum, Sgds,
                         testing::Combine(testing::Values(Dtype::float64, Dtype::float32), testing::Values(0.0),
                                          testing::Values(false)));

class Adams : public testing::TestWithParam<std::tuple<Dtype, bool>> {};

TEST_P(Adams, EqualThePlainLoop) {
  const auto [dtype, is_decoupled] = GetParam();
  const bool decoupled = is_decoupled;
  const double lr = 0.01, decay = 0.05, beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  expect_trajectory(
      dtype, dtype == Dtype::float64 ? 1e-14 : 2e-6, {{}, lr, decay},
      [&](auto groups) -> std::unique_ptr<Optimizer> {
        const AdamOptions options{beta1, beta2, eps};
        if (decoupled) return std::make_unique<AdamW>(groups, options);
        return std::make_unique<Adam>(groups, options);
      },
      [&](std::int64_t step, double w, double grad, double(&state)[2]) {
        const double g = decoupled ? grad : grad + decay * w;
        state[0] = beta1 * state[0] + (1 - beta1) * g;
        state[1] = beta2 * state[1] + (1 - beta2) * g * g;
        const double m = state[0] / (1 - std::pow(beta1, step)), v = state[1] / (1 - std::pow(beta2, step));
        return (decoupled ? (1 - lr * decay) * w : w) - lr * m / (std::sqrt(v) + eps);
      });
}

INSTANTIATE_TEST_SUITE_P(Optim, Adams,
                         testing::Combine(testing::Values(Dtype::float64, Dtype::float32), testing::Bool()));

TEST(Optim, SavedStateContinuesToTheSameBits) {
  for (const MakeOptimizer& make : every_optimizer()) {
    Training whole(make), first(make), second(make);
    whole.steps(0, 6);
    first.steps(0, 3);
    Tensor(second.flat.values()).copy_from(first.flat.values());
    const auto saved = first.optimizer->state(), loaded = second.optimizer->state();
    ASSERT_EQ(saved.size(), loaded.size());
    for (std::size_t i = 0; i < saved.size(); ++i) {
      EXPECT_EQ(saved[i].name, loaded[i].name);
      Tensor(loaded[i].tensor).copy_from(saved[i].tensor);
    }
    second.steps(3, 6);
    EXPECT_EQ(doubles(second.flat.values()), doubles(whole.flat.values())) << whole.optimizer->name();
    EXPECT_EQ(second.optimizer->steps(), 6);
  }
}

TEST(Optim, ReplayedUpdatesAreStepsToTheSameBits) {
  for (const MakeOptimizer& make : every_optimizer()) {
    Training steps(make), replayed(make);
    steps.steps(0, 6);
    replayed.steps(0, 2);
    replayed.replay(2, 6);
    const auto a = steps.optimizer->state(), b = replayed.optimizer->state();
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_EQ(doubles(a[i].tensor), doubles(b[i].tensor)) << a[i].name;
    EXPECT_EQ(doubles(steps.flat.values()), doubles(replayed.flat.values())) << steps.optimizer->name();
  }
}

TEST(Optim, ResultsDoNotDependOnTheNumberOfThreads) {
  const int threads = thread_count();
  for (const MakeOptimizer& make : every_optimizer()) {
    std::vector<std::vector<double>> values;
    for (int count : {1, 2, 3}) {
      set_thread_count(count);
      Training run(make, 2400);
      run.steps(0, 2);
      clip_gradient_norm(run.flat, 0.1);
      values.push_back(doubles(run.flat.values()));
      values.push_back(doubles(run.flat.grads()));
    }
    for (std::size_t i = 2; i < values.size(); ++i) EXPECT_EQ(values[i], values[i % 2]);
  }
  set_thread_count(threads);
}

TEST(Optim, AStepTakesNoNewMemory) {
  if (!kCountsNew) GTEST_SKIP() << "the pool caches nothing under this sanitizer";
  for (const MakeOptimizer& make : every_optimizer()) {
    Training run(make);
    run.optimizer->step();
    const auto requests = pool::statistics().system_requests;
    for (int i = 0; i < 3; ++i) run.optimizer->step();
    EXPECT_EQ(pool::statistics().system_requests, requests) << run.optimizer->name();
  }
}

TEST(Optim, StateIsNamedAfterParameters) {
  Training run([](auto groups) { return std::make_unique<AdamW>(groups); });
  const auto state = run.optimizer->state();
  ASSERT_EQ(state.size(), 9u);
  EXPECT_EQ(state[0].name, "adamw.step");
  EXPECT_EQ(state[0].tensor.dtype(), Dtype::int64);
  EXPECT_EQ(state[2].name, "adamw.exp_avg.conv.weight");
  EXPECT_EQ(state[2].tensor.shape(), (Shape{5, 3, 3, 2}));
  EXPECT_EQ(state[8].name, "adamw.exp_avg_sq.table");
}

TEST(Optim, AParameterSwitchedOffKeepsValueAndState) { expect_switched_off_parameters_stay(Device::cpu); }

TEST(FlatParameters, KeepContentsInGroupsOfAlignedSlices) {
  OptimModel model(Dtype::float32), untouched(Dtype::float32);
  model.set_gradients(0), untouched.set_gradients(0);
  model.parameters.push_back({"whiten", Parameter(Tensor::full({3}, 2), Role::frozen)});
  FlatParameters flat(group_by_role(model.parameters, {{Role::table, Role::vector}, {}, {Role::matrix}}));
  ASSERT_EQ(flat.groups().size(), 3u);
  EXPECT_EQ(flat.group(0).slices[0].name, "linear.bias");
  EXPECT_EQ(flat.group(0).values.elements(), 32);  // 7 and 9 elements, each rounded up to 64 bytes
  EXPECT_EQ(flat.group(1).values.elements(), 0);
  EXPECT_EQ(flat.values().elements(), 32 + 48 + 96);
  for (std::size_t i = 0; i < 4; ++i) {
    const Parameter &p = model.parameters[i].parameter, &q = untouched.parameters[i].parameter;
    EXPECT_EQ(doubles(p.value()), doubles(q.value()));
    EXPECT_EQ(doubles(p.grad()), doubles(q.grad()));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p.value().raw()) % kAlignment, 0u);
    EXPECT_GE(p.grad().raw(), flat.grads().raw());
    EXPECT_LT(p.grad().raw(), flat.grads().raw() + flat.grads().bytes());
  }
  flat.zero_grad();
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(norm(model.parameters[i].parameter.grad()), 0);
}

TEST(FlatParameters, Errors) {
  OptimModel model;
  auto twice = model.parameters;
  twice.push_back({"tied", twice[0].parameter});
  EXPECT_EQ(error_text([&] { FlatParameters flat({twice}); }),
            "flat_parameters: linear.weight and tied are the same parameter");
  auto mixed = model.parameters;
  mixed.push_back({"single", Parameter(Tensor::zeros({2}), Role::vector)});
  EXPECT_EQ(error_text([&] { FlatParameters flat({mixed}); }),
            "flat_parameters: expected float64 on cpu like linear.weight, single is float32 on cpu");
  EXPECT_EQ(error_text([&] { FlatParameters({model.parameters}).group(1); }), "flat_parameters: no group 1 among 1");
}

TEST(Optim, Errors) {
  OptimModel model;
  EXPECT_EQ(error_text([&] {
              group_by_role(model.parameters, {{Role::matrix}, {Role::vector}});
            }),
            "group_by_role: no group takes table, which is a table");
  FlatParameters flat({model.parameters});
  const std::vector<ParameterGroup> groups{{flat.group(0), 0.1}};
  EXPECT_EQ(error_text([&] { Sgd sgd(groups, {0, true}); }), "sgd: nesterov expects a momentum above 0");
  EXPECT_EQ(error_text([&] { Sgd sgd(groups, {1}); }), "sgd: momentum expected in [0, 1), got 1");
  EXPECT_EQ(error_text([&] { AdamW adamw(groups, {0.9, 1.5}); }), "adamw: beta2 expected in [0, 1), got 1.5");
  EXPECT_EQ(error_text([&] { Adam adam({ParameterGroup{}}); }),
            "adam: a group has no parameters\nhint: take groups from FlatParameters");
  EXPECT_EQ(error_text([&] { Muon muon(groups); }),
            "muon: linear.bias [7] is not a matrix\nhint: leave vectors to Sgd or AdamW");
  Sgd sgd(groups);
  model.parameters[2].parameter.to(Dtype::float32);
  EXPECT_EQ(error_text([&] { sgd.step(); }),
            "sgd: conv.weight has left its flat buffer\nhint: convert the model before FlatParameters is made");
}

TEST(GradientNorm, ClipsLikePyTorch) {
  for (const Dtype dtype : {Dtype::float64, Dtype::float32}) {
    OptimModel model(dtype, 3000);
    FlatParameters flat({model.parameters});
    model.set_gradients(0);
    const auto grads = doubles(flat.grads());
    double squares = 0;
    for (const double g : grads) squares += g * g;
    const double expected = std::sqrt(squares), bound = dtype == Dtype::float64 ? 1e-14 : 1e-7;
    EXPECT_NEAR(clip_gradient_norm(flat, 1e4), expected, 1e-12 * expected);
    EXPECT_EQ(doubles(flat.grads()), grads);
    EXPECT_NEAR(clip_gradient_norm(flat, 2), expected, 1e-12 * expected);
    std::vector<double> clipped = grads;
    for (double& g : clipped) g *= 2 / (expected + 1e-6);
    EXPECT_LE(error_of(flat.grads(), clipped), bound);
  }
}

TEST(GradientNorm, ShowsWhatIsNotFinite) {
  OptimModel model(Dtype::float32);
  FlatParameters flat({model.parameters});
  model.parameters[0].parameter.grad().fill(1e30);  // squares beyond float32
  EXPECT_TRUE(std::isfinite(norm(flat.grads())));
  Tensor last = model.parameters[3].parameter.grad();
  last.data<float>()[8] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(std::isinf(clip_gradient_norm(flat, 1)));
  last.data<float>()[8] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(clip_gradient_norm(flat, 1)));
  EXPECT_EQ(model.parameters[0].parameter.grad().at(0), static_cast<double>(1e30f));
  EXPECT_EQ(norm(Tensor::empty({0})), 0);
}

}  // namespace
}  // namespace dattn::test
