// The moving average of weights against plain loops, its place in the model, and its state.
#include "optim/ema.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "optim_model.h"

namespace dattn::test {
namespace {

// The weights at a step.
void move_weights(const OptimModel& model, Tensor& buffer, std::int64_t step) {
  for (std::size_t i = 0; i < model.parameters.size(); ++i) {
    Tensor& w = model.parameters[i].parameter.value();
    w.copy_from(normal(w.shape(), static_cast<std::uint32_t>(50 * (step + 1) + static_cast<std::int64_t>(i))));
  }
  buffer.fill(static_cast<double>(step));
}

struct Averaged {
  OptimModel model;
  Tensor running = Tensor::full({3}, 1, Dtype::float64), count = Tensor::zeros({}, Dtype::int64);
  FlatParameters flat;
  Ema ema;

  explicit Averaged(EmaOptions options)
      : flat(group_by_role(model.parameters, {{Role::matrix}, {}, {Role::vector, Role::table}})),
        ema(flat, {{"norm.running_mean", running}, {"norm.num_batches_tracked", count}}, options) {}

  void steps(std::int64_t begin, std::int64_t end) {
    for (std::int64_t step = begin; step < end; ++step) {
      move_weights(model, running, step);
      ema.step();
    }
  }
};

TEST(Ema, EqualsThePlainLoop) {
  for (const bool warm_up : {false, true}) {
    Averaged a({.decay = 0.5, .warm_up = warm_up});
    const Tensor& w = a.model.parameters[2].parameter.value();
    std::vector<double> expected = doubles(w);
    double expected_buffer = 1;
    for (std::int64_t step = 0; step < 12; ++step) {
      a.steps(step, step + 1);
      const auto n = static_cast<double>(step);
      const double decay = warm_up ? std::min(0.5, (1 + n) / (10 + n)) : 0.5;
      const std::vector<double> now = doubles(w);
      for (std::size_t i = 0; i < now.size(); ++i) expected[i] = decay * expected[i] + (1 - decay) * now[i];
      expected_buffer = decay * expected_buffer + (1 - decay) * n;
    }
    const std::vector<double> last = doubles(w);
    const std::byte* address = w.raw();
    {
      const WithAverages averages(a.ema);
      EXPECT_LE(error_of(w, expected), 1e-14);
      EXPECT_NEAR(a.running.at(0), expected_buffer, 1e-14);
      EXPECT_EQ(w.raw(), address);
    }
    EXPECT_EQ(doubles(w), last);
    EXPECT_EQ(a.running.at(0), 11);
    EXPECT_EQ(a.ema.steps(), 12);
  }
}

TEST(Ema, ReplayedUpdatesAreUpdatesToTheSameBits) {
  const EmaOptions options{.decay = 0.5, .warm_up = true};
  Averaged updated(options), replayed(options);
  updated.steps(0, 6);
  replayed.steps(0, 2);
  Tensor table = Tensor::empty({4, replayed.ema.numbers().elements()}, Dtype::float64);
  for (std::int64_t n = 0; n < 4; ++n) replayed.ema.write_numbers(n + 3, table.data<double>() + n * table.size(1));
  for (std::int64_t n = 0; n < 4; ++n) {
    move_weights(replayed.model, replayed.running, n + 2);
    replayed.ema.numbers().copy_from(table.slice(n, n + 1));
    replayed.ema.update();
  }
  replayed.ema.count_steps(4);
  const auto a = updated.ema.state(), b = replayed.ema.state();
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_EQ(doubles(a[i].tensor), doubles(b[i].tensor)) << a[i].name;
}

TEST(Ema, SavedStateContinuesToTheSameBits) {
  const EmaOptions options{.decay = 0.9, .warm_up = true};
  Averaged whole(options), first(options), second(options);
  whole.steps(0, 6);
  first.steps(0, 3);
  const auto saved = first.ema.state(), loaded = second.ema.state();
  ASSERT_EQ(saved.size(), 6u);  // the count, four parameters and one floating buffer
  EXPECT_EQ(saved[0].name, "updates");
  EXPECT_EQ(saved[2].name, "conv.weight");
  EXPECT_EQ(saved[2].tensor.shape(), (Shape{5, 3, 3, 2}));
  EXPECT_EQ(saved[5].name, "norm.running_mean");
  for (std::size_t i = 0; i < saved.size(); ++i) Tensor(loaded[i].tensor).copy_from(saved[i].tensor);
  second.steps(3, 6);
  const auto a = whole.ema.state(), b = second.ema.state();
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_EQ(doubles(a[i].tensor), doubles(b[i].tensor)) << a[i].name;
}

TEST(Ema, RefusesUpdatesWhileTheAveragesAreInTheModel) {
  Averaged a({});
  a.ema.swap();
  EXPECT_THROW(a.ema.step(), Error);
  EXPECT_THROW(a.ema.update(), Error);
  EXPECT_THROW(a.ema.state(), Error);
  a.ema.swap();
  a.ema.step();
  EXPECT_EQ(a.ema.steps(), 1);
}

}  // namespace
}  // namespace dattn::test
