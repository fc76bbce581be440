// Dropout and DropPath: what is kept, that masks repeat, and errors. Gradients are in op_cases_activation.cpp.
#include "layers/dropout.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "error_text.h"

namespace dattn {
namespace {

// Restores the state of the step, which the tests move.
struct Dropping : testing::Test {
  RandomState before = random_state();
  ~Dropping() override { set_random_step(before.seed, before.step); }
  Random random{3, Purpose::test};
};

std::vector<float> elements(const Tensor& x) { return {x.values<float>().begin(), x.values<float>().end()}; }

TEST_F(Dropping, KeepsTheGivenShareAndTheMean) {
  const Tensor x = Tensor::full({100, 1003}, 2);
  for (const double p : {0.1, 0.5, 0.9}) {
    const Tensor y = Dropout(p, random)(x);
    double sum = 0, kept = 0;
    for (const float v : y.values<float>()) {
      EXPECT_TRUE(v == 0 || v == static_cast<float>(2 * static_cast<float>(1 / (1 - p))));
      sum += v;
      kept += v != 0;
    }
    const double count = static_cast<double>(x.elements());
    EXPECT_NEAR(kept / count, 1 - p, 4 * std::sqrt(p * (1 - p) / count));
    EXPECT_NEAR(sum / count, 2, 0.05);
  }
}

TEST_F(Dropping, AMaskIsFixedBySeedStepAndLane) {
  const Tensor x = Tensor::full({3, 333}, 1);
  const Dropout a(0.5, random), b(0.5, random);
  set_random_step(1, 5);
  const auto mask = elements(a(x));
  EXPECT_EQ(elements(a(x)), mask);
  EXPECT_NE(elements(b(x)), mask) << "two layers built from one Random";
  set_random_step(1, 6);
  EXPECT_NE(elements(a(x)), mask);
  set_random_step(2, 5);
  EXPECT_NE(elements(a(x)), mask);
  set_random_step(1, 5);
  EXPECT_EQ(elements(a(x)), mask);
  Random again(3, Purpose::test);
  EXPECT_EQ(elements(Dropout(0.5, again)(x)), mask) << "the same layer of a model built again";
}

TEST_F(Dropping, KernelsDrawTheSameMask) {
  const Dropout layer(0.3, random);
  const DropoutMask mask = layer.mask();
  const Tensor y = layer(Tensor::full({5, 1001}, 1));
  std::vector<float> factors(700);
  mask.factors(1234, 700, factors.data());
  for (int i = 0; i < 700; ++i) {
    EXPECT_EQ(factors[i], y.at(1234 + i));
    EXPECT_EQ(mask.keep(1234 + i), y.at(1234 + i) != 0);
    EXPECT_EQ(static_cast<float>(mask.factor(1234 + i)), y.at(1234 + i));
  }
  EXPECT_FALSE(DropoutMask().drops());
  EXPECT_EQ(DropoutMask().factor(7), 1);
}

TEST_F(Dropping, ThreadsDoNotMatterAndBackwardRepeatsTheMask) {
  const Dropout layer(0.3, random);
  Tensor x = Tensor::full({7, 12345}, 1).track();
  const int threads = thread_count();
  set_thread_count(3);
  const Tensor y = layer(x);
  set_random_step(8, 8);  // backward draws the mask of its forward pass, whatever the step is by then
  set_thread_count(1);
  backward(y, Tensor::full(y.shape(), 1));
  set_thread_count(threads);
  EXPECT_EQ(elements(x.grad()), elements(y));
}

TEST_F(Dropping, IsTheIdentityOutsideTrainingAndAtZero) {
  const Tensor x = Tensor::full({4, 3}, 1);
  Dropout dropout(0.5, random);
  DropPath drop_path(0.5, random);
  set_training(dropout, false);
  set_training(drop_path, false);
  EXPECT_EQ(dropout(x).raw(), x.raw());
  EXPECT_EQ(drop_path(x).raw(), x.raw());
  EXPECT_FALSE(dropout.mask().drops());
  EXPECT_EQ(Dropout(0, random)(x).raw(), x.raw());
}

TEST_F(Dropping, DropPathDropsWholeImages) {
  const Tensor y = DropPath(0.25, random)(Tensor::full({400, 3, 2, 5}, 3));
  int kept = 0;
  for (int n = 0; n < 400; ++n) {
    const double first = y.at(30 * n);
    EXPECT_TRUE(first == 0 || first == 4);
    for (int i = 1; i < 30; ++i) EXPECT_EQ(y.at(30 * n + i), first);
    kept += first != 0;
  }
  EXPECT_NEAR(kept, 300, 35);
}

TEST_F(Dropping, Errors) {
  EXPECT_EQ(test::error_text([&] { Dropout(1, random); }), "Dropout: expected a probability 0 <= p < 1, got 1");
  EXPECT_EQ(test::error_text([&] { DropPath(-0.1, random); }), "DropPath: expected a probability 0 <= p < 1, got -0.1");
  EXPECT_EQ(test::error_text([&] { Dropout(std::nan(""), random); }),
            "Dropout: expected a probability 0 <= p < 1, got nan");
  EXPECT_EQ(test::error_text([&] { DropPath(0.5, random)(Tensor::scalar(1.0f)); }),
            "DropPath: expected images [N, ...], got x [] float32");
  EXPECT_EQ(test::error_text([&] {
              dropout(Tensor::zeros({2, 5}), DropoutMask(), 3);
            }),
            "dropout: runs of 3 elements do not divide x [2,5] float32");
}

}  // namespace
}  // namespace dattn
