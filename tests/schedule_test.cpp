// Schedules at their ends, corners and beyond.
#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "error_text.h"

namespace dattn::test {
namespace {

TEST(Schedule, ConstantAndLinear) {
  EXPECT_EQ(schedule::constant(0.3)(12345), 0.3);
  const Schedule falling = schedule::linear(0.67, 0, 200);
  EXPECT_EQ(falling(0), 0.67);
  EXPECT_EQ(falling(50), 0.67 * (1 - 50.0 / 200));
  EXPECT_EQ(falling(200), 0);
  EXPECT_EQ(falling(1000), 0);
  EXPECT_EQ(falling(-1), 0.67);
  EXPECT_EQ(schedule::linear(1, 3, 4)(1), 1.5);
}

TEST(Schedule, CosineIsPyTorchsCosineAnnealing) {
  const Schedule cosine = schedule::cosine(0.1, 0.01, 8);
  EXPECT_EQ(cosine(0), 0.1);
  EXPECT_EQ(cosine(8), 0.01);
  EXPECT_EQ(cosine(9), 0.01);
  EXPECT_NEAR(cosine(4), 0.055, 1e-16);
  EXPECT_NEAR(cosine(3), 0.01 + 0.09 * (1 + std::cos(3 * M_PI / 8)) / 2, 1e-16);
}

// Numbers of torch.optim.lr_scheduler.OneCycleLR(max_lr=0.5, total_steps=10).
TEST(Schedule, OneCycleIsPyTorchs) {
  const Schedule cosine = schedule::one_cycle(0.5, 10);
  const double cosine_values[] = {0.020000000000000018,
                                  0.26,
                                  0.5,
                                  0.47524231600673683,
                                  0.40587282697488153,
                                  0.30563101096814466,
                                  0.19437098903185537,
                                  0.09412917302511849,
                                  0.024759683993263143,
                                  2e-06};
  for (int i = 0; i < 10; ++i) EXPECT_NEAR(cosine(i), cosine_values[i], 1e-15) << i;
  EXPECT_EQ(cosine(2), 0.5);
  EXPECT_EQ(cosine(9), 0.5 / 25 / 1e4);
  EXPECT_EQ(cosine(99), cosine(9));
  const Schedule linear = schedule::one_cycle(0.5, 10, {.rise = 0.45, .anneal = schedule::Anneal::linear});
  const double linear_values[] = {0.02,
                                  0.1571428571428571,
                                  0.29428571428571426,
                                  0.4314285714285714,
                                  0.4545456363636364,
                                  0.36363690909090907,
                                  0.2727281818181818,
                                  0.18181945454545456,
                                  0.09091072727272725,
                                  2.000000000002e-06};
  for (int i = 0; i < 10; ++i) EXPECT_NEAR(linear(i), linear_values[i], 1e-15) << i;
}

TEST(Schedule, WarmUpIsLaidOverAnySchedule) {
  const Schedule s = schedule::warm_up(20, schedule::linear(2e-3, 0, 100));
  EXPECT_NEAR(s(0), 2e-3 / 20, 1e-18);
  EXPECT_NEAR(s(9), 2e-3 * 0.91 * 0.5, 1e-18);
  EXPECT_EQ(s(19), schedule::linear(2e-3, 0, 100)(19));
  EXPECT_EQ(s(60), schedule::linear(2e-3, 0, 100)(60));
  EXPECT_EQ(s(100), 0);
}

TEST(Schedule, Errors) {
  EXPECT_EQ(error_text([] { schedule::linear(1, 0, 0); }), "linear: steps expected to be at least 1, got 0");
  EXPECT_EQ(error_text([] { schedule::one_cycle(1, 10, {.rise = 1}); }),
            "one_cycle: rise 1 of 10 steps leaves no step to rise or to fall");
  EXPECT_EQ(error_text([] { schedule::warm_up(5, {}); }), "warm_up: expected a schedule to follow");
}

}  // namespace
}  // namespace dattn::test
