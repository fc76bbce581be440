// BatchNorm, LayerNorm and GroupNorm: running statistics, accuracy over many tiles, names and roles, errors by their
// text.
#include <gtest/gtest.h>

#include <cmath>

#include "core/ops.h"
#include "error_text.h"
#include "layers/batchnorm.h"
#include "layers/groupnorm.h"
#include "layers/layernorm.h"
#include "op_cases.h"
#include "op_compare.h"

namespace dattn::test {
namespace {

// --- BatchNorm ---

// The definition, row by row in double: y and the gradients for a given dy.
struct BatchNormReference {
  Tensor y, dx, dw, db, mean, var;

  BatchNormReference(const Tensor& x, const Tensor& dy, const Tensor& w, const Tensor& b, double eps) {
    const std::int64_t R = x.shape().rows(), C = x.size(-1);
    y = Tensor::like(x), dx = Tensor::like(x), dw = Tensor::zeros({C}, Dtype::float64),
    db = Tensor::zeros({C}, Dtype::float64);
    mean = Tensor::zeros({C}, Dtype::float64), var = Tensor::zeros({C}, Dtype::float64);
    for (std::int64_t c = 0; c < C; ++c) {
      double *m = mean.data<double>() + c, *v = var.data<double>() + c, *pdw = dw.data<double>() + c,
             *pdb = db.data<double>() + c;
      for (std::int64_t r = 0; r < R; ++r) *m += x.at(r * C + c) / static_cast<double>(R);
      for (std::int64_t r = 0; r < R; ++r) *v += std::pow(x.at(r * C + c) - *m, 2) / static_cast<double>(R);
      const double s = 1 / std::sqrt(*v + eps);
      const auto xhat = [&](std::int64_t r) { return (x.at(r * C + c) - *m) * s; };
      for (std::int64_t r = 0; r < R; ++r) {
        y.data<double>()[r * C + c] = xhat(r) * w.at(c) + b.at(c);
        *pdb += dy.at(r * C + c);
        *pdw += dy.at(r * C + c) * xhat(r);
      }
      for (std::int64_t r = 0; r < R; ++r) {
        dx.data<double>()[r * C + c] =
            w.at(c) * s * (dy.at(r * C + c) - (*pdb + xhat(r) * *pdw) / static_cast<double>(R));
      }
    }
  }
};

TEST(BatchNorm, MatchesItsDefinitionOverManyTiles) {
  for (const Shape& shape :
       {Shape{70000, 1}, Shape{30001, 3}, Shape{3, 50, 41, 24}, Shape{1013, 65}, Shape{67, 1000}}) {
    const std::int64_t C = shape[-1];
    Tensor x = normal(shape, 1, 2, 0.5).track();
    const Tensor dy = normal(shape, 2);
    BatchNorm2d norm(C, {.eps = 0.01});
    convert(norm, Dtype::float64);
    randomise(parameters(norm));
    const BatchNormReference expected(x, dy, norm.weight.value(), norm.bias.value(), 0.01);
    const Tensor y = norm(x);
    backward(y, dy);
    EXPECT_LT(distance(y, expected.y), 1e-12) << shape.text();
    EXPECT_LT(distance(x.grad(), expected.dx), 1e-12) << shape.text();
    EXPECT_LT(distance(norm.weight.grad(), expected.dw), 1e-9) << shape.text();
    EXPECT_LT(distance(norm.bias.grad(), expected.db), 1e-9) << shape.text();
  }
}

TEST(BatchNorm, StatisticsOfLargeMeansAreAccurateInFloat) {
  const Tensor x = normal({40000, 5}, 1, 1, 3000).to(Dtype::float32);
  Tensor mean = Tensor::empty({5}), var = Tensor::empty({5});
  batchnorm_statistics(x, mean, var);
  const Tensor zeros = Tensor::zeros({5}, Dtype::float64), xd = x.to(Dtype::float64);
  const BatchNormReference expected(xd, xd, zeros, zeros, 1e-5);
  EXPECT_LT(distance(mean, expected.mean), 3000 * 1.2e-7);
  EXPECT_LT(distance(var, expected.var), 1e-6);
}

TEST(BatchNorm, StatisticsDoNotDependOnThreads) {
  const Tensor x = normal({20011, 24}, 1).to(Dtype::float32);
  expect_same_with_threads([&] {
    Tensor mean = Tensor::empty({24}), var = Tensor::like(mean);
    batchnorm_statistics(x, mean, var);
    return std::vector{mean, var};
  });
}

TEST(BatchNorm, RunningStatisticsMoveInTrainingOnly) {
  BatchNorm2d norm(2, {.momentum = 0.25});
  const Tensor x = Tensor::from<float>({3, 2}, std::vector<float>{1, 10, 2, 20, 6, 60});
  norm(x);
  // Means 3 and 30; unbiased variances 7 and 700.
  EXPECT_FLOAT_EQ(static_cast<float>(norm.running_mean.at(0)), 0.75f * 0 + 0.25f * 3);
  EXPECT_FLOAT_EQ(static_cast<float>(norm.running_mean.at(1)), 0.25f * 30);
  EXPECT_FLOAT_EQ(static_cast<float>(norm.running_var.at(0)), 0.75f * 1 + 0.25f * 7);
  EXPECT_FLOAT_EQ(static_cast<float>(norm.running_var.at(1)), 0.75f + 0.25f * 700);
  EXPECT_EQ(norm.num_batches_tracked.item(), 1);

  set_training(norm, false);
  const Tensor mean = norm.running_mean.clone(), var = norm.running_var.clone(), y = norm(x);
  EXPECT_EQ(distance(mean, norm.running_mean), 0);
  EXPECT_EQ(distance(var, norm.running_var), 0);
  EXPECT_EQ(norm.num_batches_tracked.item(), 1);
  EXPECT_NEAR(y.at(0), (1 - 0.75) / std::sqrt(2.5 + 1e-5), 1e-6);
}

TEST(BatchNorm, EvaluationRemembersTheStatisticsItUsed) {
  BatchNorm2d norm(3);
  convert(norm, Dtype::float64);
  set_training(norm, false);
  Tensor x = normal({4, 3}, 1).track();
  const Tensor y = norm(x);
  norm.running_var.fill(9);
  backward(y, Tensor::full(y.shape(), 1, Dtype::float64));
  EXPECT_NEAR(x.grad().at(0), 1 / std::sqrt(1 + 1e-5), 1e-12);
}

TEST(BatchNorm, NamesAndRolesArePyTorchs) {
  BatchNorm2d norm(4, {.frozen_scale = true});
  const auto ps = parameters(norm);
  ASSERT_EQ(ps.size(), 2u);
  EXPECT_EQ(ps[0].name, "weight");
  EXPECT_EQ(ps[0].parameter.role(), Role::frozen);
  EXPECT_FALSE(ps[0].parameter.trainable());
  EXPECT_EQ(ps[0].parameter.value().at(3), 1);
  EXPECT_EQ(ps[1].name, "bias");
  const auto bs = buffers(norm);
  ASSERT_EQ(bs.size(), 3u);
  EXPECT_EQ(bs[0].name, "running_mean");
  EXPECT_EQ(bs[1].name, "running_var");
  EXPECT_EQ(bs[2].name, "num_batches_tracked");
  EXPECT_EQ(bs[2].tensor.shape(), Shape{});
  EXPECT_EQ(bs[2].tensor.dtype(), Dtype::int64);
  norm(Tensor::full({3, 4}, 2));
  EXPECT_EQ(norm.weight.value().at(0), 1);
}

TEST(BatchNorm, Errors) {
  BatchNorm2d norm(3);
  EXPECT_EQ(error_text([&] {
              norm(Tensor::zeros({8, 5, 5, 4}));
            }),
            "batchnorm2d: expected 3 channels, input has 4 (x [8,5,5,4] float32)");
  EXPECT_EQ(error_text([&] {
              norm(Tensor::zeros({8, 5, 3}));
            }),
            "batchnorm2d: expected images [N,H,W,3] or rows [rows,3], got x [8,5,3] float32");
  EXPECT_EQ(error_text([&] {
              norm(Tensor::zeros({1, 1, 1, 3}));
            }),
            "batchnorm2d: training expects more than 1 value for each channel, got 1 (x [1,1,1,3] float32)\n"
            "hint: a larger batch, or set_training(module, false)");
  EXPECT_EQ(
      error_text([&] {
        norm(Tensor::zeros({2, 3}, Dtype::float64));
      }),
      "batchnorm2d: expected an input of its parameters' type float32 or bfloat16 beside float32, got x [2,3] float64\n"
      "hint: convert(module, dtype) or x.to(dtype)");
  EXPECT_EQ(norm.num_batches_tracked.item(), 0);
  set_training(norm, false);
  EXPECT_EQ(norm(Tensor::zeros({1, 1, 1, 3})).elements(), 3);
  EXPECT_EQ(norm(Tensor::zeros({0, 3})).elements(), 0);
  EXPECT_EQ(error_text([] { BatchNorm2d(0); }), "batchnorm2d: expected at least 1 channel, got 0");
  EXPECT_EQ(error_text([] { BatchNorm2d(3, {.momentum = 1.5}); }),
            "batchnorm2d: expected a momentum between 0 and 1, got 1.5");
  EXPECT_EQ(error_text([] { BatchNorm2d(3, {.eps = -1}); }), "batchnorm2d: expected eps of at least 0, got -1");
}

// --- LayerNorm ---

TEST(LayerNorm, GradientsOverManyTilesAreSumsOverRows) {
  constexpr std::int64_t kRows = 5003, kChannels = 16;
  Tensor x = normal({kRows, kChannels}, 1).track();
  LayerNorm norm(kChannels);
  convert(norm, Dtype::float64);
  randomise(parameters(norm));
  const Tensor dy = normal(x.shape(), 2), y = norm(x);
  backward(y, dy);
  Tensor db = Tensor::zeros({kChannels}, Dtype::float64), dw = db.clone();
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    const std::int64_t c = i % kChannels;
    const double xhat = (y.at(i) - norm.bias.value().at(c)) / norm.weight.value().at(c);
    db.data<double>()[c] += dy.at(i);
    dw.data<double>()[c] += dy.at(i) * xhat;
  }
  EXPECT_LT(distance(norm.bias.grad(), db), 1e-10);
  EXPECT_LT(distance(norm.weight.grad(), dw), 1e-10);
}

TEST(LayerNorm, Errors) {
  const LayerNorm norm(6);
  EXPECT_EQ(error_text([&] {
              norm(Tensor::zeros({2, 5}));
            }),
            "layernorm: expected 6 channels, input has 5 (x [2,5] float32)");
  EXPECT_EQ(error_text([&] { norm(Tensor::zeros({})); }),
            "layernorm: expected at least one dimension, got x [] float32");
  EXPECT_EQ(
      error_text([&] {
        norm(Tensor::zeros({2, 6}, Dtype::int32));
      }),
      "layernorm: expected an input of its parameters' type float32 or bfloat16 beside float32, got x [2,6] int32\n"
      "hint: convert(module, dtype) or x.to(dtype)");
  EXPECT_EQ(error_text([&] {
              layernorm(Tensor::zeros({2, 6}), norm.weight, {});
            }),
            "layernorm: expected a weight and a bias, got none");
  EXPECT_EQ(error_text([] { LayerNorm(0); }), "layernorm: expected at least 1 channel, got 0");
}

// --- GroupNorm ---

TEST(GroupNorm, NormalisesEveryGroupOfEveryImage) {
  const Shape shape{3, 40, 37, 12};
  GroupNorm norm(4, 12);
  convert(norm, Dtype::float64);
  const Tensor y = norm(normal(shape, 1, 3, 5));
  for (std::int64_t n = 0; n < 3; ++n) {
    for (std::int64_t g = 0; g < 4; ++g) {
      double sum = 0, squares = 0;
      const double values = 40 * 37 * 3;
      for (std::int64_t pixel = 0; pixel < 40 * 37; ++pixel) {
        for (std::int64_t c = 3 * g; c < 3 * g + 3; ++c) {
          const double v = y.at((n * 40 * 37 + pixel) * 12 + c);
          sum += v / values;
          squares += v * v / values;
        }
      }
      EXPECT_NEAR(sum, 0, 1e-12);
      EXPECT_NEAR(squares, 1, 1e-5);
    }
  }
}

TEST(GroupNorm, OneGroupOfRowsIsLayerNorm) {
  Tensor x = normal({7, 12}, 1).track(), same = x.clone().track();
  GroupNorm group(1, 12);
  LayerNorm layer(12);
  convert(group, Dtype::float64);
  convert(layer, Dtype::float64);
  randomise(parameters(group));
  randomise(parameters(layer));
  const Tensor dy = normal(x.shape(), 2), y = group(x), expected = layer(same);
  backward(y, dy);
  backward(expected, dy);
  EXPECT_LT(distance(y, expected), 1e-13);
  EXPECT_LT(distance(x.grad(), same.grad()), 1e-13);
  EXPECT_LT(distance(group.weight.grad(), layer.weight.grad()), 1e-13);
}

TEST(GroupNorm, Errors) {
  const GroupNorm norm(2, 6);
  EXPECT_EQ(error_text([] { GroupNorm(4, 6); }), "groupnorm: 6 channels cannot be divided into 4 groups");
  EXPECT_EQ(error_text([&] {
              norm(Tensor::zeros({2, 4, 4, 3}));
            }),
            "groupnorm: expected 6 channels, input has 3 (x [2,4,4,3] float32)");
  EXPECT_EQ(error_text([&] { norm(Tensor::zeros({6})); }),
            "groupnorm: expected [N,...,C] of at least one pixel, got x [6] float32");
  EXPECT_EQ(error_text([&] {
              norm(Tensor::zeros({2, 0, 4, 6}));
            }),
            "groupnorm: expected [N,...,C] of at least one pixel, got x [2,0,4,6] float32");
}

}  // namespace
}  // namespace dattn::test
