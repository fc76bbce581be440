// Convolution and linear layer: results and gradients against the defining sums, what backward leaves out, and errors
// by their text.
#include "layers/conv2d.h"

#include <gtest/gtest.h>

#include "error_text.h"
#include "instruction_sets.h"
#include "layers/linear.h"
#include "op_cases.h"
#include "op_compare.h"
#include "pick.h"
#include "small.h"

namespace dattn::test {
namespace {

Parameter zeros(const Shape& shape, Role role = Role::matrix) { return Parameter(Tensor::zeros(shape), role); }

// y, dx and dw by their definition, in double.
struct Definition {
  Tensor y, dx, dw;

  Definition(const Tensor& x, const Tensor& w, const Tensor& dy, const Conv2dOptions& o)
      : y(Tensor::zeros(dy.shape(), Dtype::float64)),
        dx(Tensor::zeros(x.shape(), Dtype::float64)),
        dw(Tensor::zeros(w.shape(), Dtype::float64)) {
    const std::int64_t outputs = w.size(0), taps = w.size(1) * w.size(2), Cg = w.size(3);
    for (std::int64_t at = 0; at < dy.elements(); ++at) {
      const std::int64_t out = at % outputs, pixel = at / outputs, row = pixel / dy.size(2);
      for (std::int64_t tap = 0; tap < taps; ++tap) {
        const std::int64_t h = row % dy.size(1) * o.stride - o.padding + tap / w.size(2) * o.dilation;
        const std::int64_t v = pixel % dy.size(2) * o.stride - o.padding + tap % w.size(2) * o.dilation;
        if (h < 0 || h >= x.size(1) || v < 0 || v >= x.size(2)) continue;
        const std::int64_t from =
            ((row / dy.size(1) * x.size(1) + h) * x.size(2) + v) * x.size(3) + out / (outputs / o.groups) * Cg;
        for (std::int64_t c = 0; c < Cg; ++c) {
          const std::int64_t factor = (out * taps + tap) * Cg + c;
          y.data<double>()[at] += w.at(factor) * x.at(from + c);
          dx.data<double>()[from + c] += w.at(factor) * dy.at(at);
          dw.data<double>()[factor] += x.at(from + c) * dy.at(at);
        }
      }
    }
  }
};

void expect_definition(const Shape& x_shape, const Shape& w_shape, const Conv2dOptions& o) {
  const Tensor x = normal(x_shape, 1);
  const Parameter w = normal_parameter(w_shape, 2), b = normal_parameter({w_shape[0]}, 3);
  const Tensor y = conv2d(x, w, b, o);
  ASSERT_EQ(y.shape(), (Shape{x_shape[0], conv2d_size(x_shape[1], w_shape[1], o),
                              conv2d_size(x_shape[2], w_shape[2], o), w_shape[0]}));
  const Definition expected(x, w.value(), Tensor::zeros(y.shape()), o);
  for (std::int64_t i = 0; i < y.elements(); ++i) {
    ASSERT_NEAR(y.at(i), expected.y.at(i) + b.value().at(i % y.size(3)), 1e-11)
        << "x " << x_shape.text() << " w " << w_shape.text() << " at " << i;
  }
}

TEST(Conv2d, IsItsDefinition) {
  expect_definition({2, 5, 7, 3}, {4, 3, 3, 3}, {1, 1});
  expect_definition({1, 9, 6, 4}, {6, 3, 2, 2}, {2, 3, 2, 2});
  expect_definition({3, 4, 5, 6}, {5, 1, 1, 6}, {});
  expect_definition({2, 5, 4, 6}, {5, 1, 1, 6}, {2, 1});
  expect_definition({2, 6, 5, 21}, {21, 3, 3, 1}, {1, 1, 1, 21});
  expect_definition({2, 7, 9, 5}, {5, 3, 2, 1}, {2, 2, 2, 5});
  expect_definition({1, 17, 33, 24}, {40, 3, 3, 24}, {1, 1});
  expect_definition({5, 7, 7, 33}, {65, 3, 3, 33}, {1, 1});
  expect_definition({1, 7, 6, 40}, {61, 3, 3, 40}, {1, 1});  // few pixels, many weights
  expect_definition({2, 9, 8, 35}, {53, 3, 3, 35}, {2, 2, 2});
  expect_definition({1, 33, 31, 3}, {24, 2, 2, 3}, {});
}

struct RandomConv {
  Shape x, w, y;
  Conv2dOptions options;

  // Sizes are mostly small; channels and outputs go beyond the widest block of columns.
  explicit RandomConv(Pick& pick) {
    const bool depthwise = pick(1, 5) == 5;
    options.groups = pick(1, 3) == 3 ? pick(2, 3) : 1;
    const std::int64_t channels = depthwise ? 1 : pick(1, pick(1, 4) == 4 ? 70 : 20);
    w = {(depthwise ? 1 : pick(1, pick(1, 4) == 4 ? 70 : 20)) * options.groups, pick(1, 4), pick(1, 4), channels};
    if (pick(1, 2) == 1) w = {w[0], 3, 3, channels};
    x = {pick(1, 3), pick(1, 9), pick(1, 9), channels * options.groups};
    options.stride = pick(1, 3) == 3 ? pick(2, 3) : 1, options.dilation = pick(1, 4) == 4 ? 2 : 1;
    const auto spans = [&](int i) { return options.dilation * (w[i] - 1) + 1 <= x[i] + 2 * options.padding; };
    do {
      options.padding = pick(0, 3);
    } while (!spans(1) || !spans(2));
    y = {x[0], conv2d_size(x[1], w[1], options), conv2d_size(x[2], w[2], options), w[0]};
  }
};

// float64 goes the direct way, float32 by Winograd's products too.
TEST(Conv2d, RandomShapesAgreeWithTheDefinition) {
  Pick pick(1);
  for (int round = 0; round < rounds(1000); ++round) {
    const RandomConv c(pick);
    SCOPED_TRACE(testing::Message() << "x " << c.x.text() << " w " << c.w.text() << " stride " << c.options.stride
                                    << " padding " << c.options.padding << " dilation " << c.options.dilation
                                    << " groups " << c.options.groups);
    const Tensor x = normal(c.x, 1).to(Dtype::float32), w = normal(c.w, 2).to(Dtype::float32),
                 dy = normal(c.y, 3).to(Dtype::float32);
    const Definition expected(x, w, dy, c.options);
    on_every_instruction_set([&] {
      for (const Dtype dtype : {Dtype::float64, Dtype::float32}) {
        const auto near = [&](const Tensor& got, const Tensor& right, std::int64_t terms) {
          const double bound = dtype == Dtype::float64 ? 1e-13 : float_bound(terms);
          return distance(got.to(Dtype::float64), right) <= bound * largest(right);
        };
        Tensor in = x.to(dtype).clone().track();
        const Parameter weight(w.to(dtype).clone(), Role::matrix);
        const Tensor y = conv2d(in, weight, {}, c.options);
        backward(y, dy.to(dtype));
        ASSERT_TRUE(near(y, expected.y, c.w.elements() / c.w[0])) << name(dtype);
        ASSERT_TRUE(near(in.grad(), expected.dx, c.w.elements() / c.w[3])) << name(dtype);
        ASSERT_TRUE(near(weight.grad(), expected.dw, c.y.elements() / c.y[3])) << name(dtype);
      }
    });
  }
}

TEST(Conv2d, SharedDepthwiseIsTheDepthwiseOfItsGroups) {
  const Tensor x = normal({2, 5, 4, 6}, 1);
  const Parameter w = normal_parameter({2, 3, 3, 1}, 2), b = normal_parameter({2}, 3);
  const Tensor y = depthwise_conv2d_shared(x, w, b, {1, 1, 1, 2}, 3);
  for (std::int64_t g = 0; g < 3; ++g) {
    Tensor group = Tensor::empty({2, 5, 4, 2}, Dtype::float64);
    for (std::int64_t i = 0; i < group.elements(); ++i) group.data<double>()[i] = x.at(i / 2 * 6 + g * 2 + i % 2);
    const Tensor expected = conv2d(group, w, b, {1, 1, 1, 2});
    for (std::int64_t i = 0; i < expected.elements(); ++i)
      EXPECT_DOUBLE_EQ(y.at(i / 2 * 6 + g * 2 + i % 2), expected.at(i));
  }
}

TEST(Conv2d, FrozenFiltersGetNoGradient) {
  const Tensor x = normal({1, 4, 4, 2}, 1);
  const Parameter w(normal({3, 3, 3, 2}, 2), Role::frozen), b = normal_parameter({3}, 3);
  const Tensor y = conv2d(x, w, b);
  backward(y, Tensor::full(y.shape(), 1, Dtype::float64));
  EXPECT_FALSE(w.grad().defined());
  for (std::int64_t i = 0; i < 3; ++i) EXPECT_EQ(b.grad().at(i), 4.0);
}

TEST(Conv2d, WhatWasFrozenWhenItRanGetsNoGradient) {
  Tensor x = normal({2, 4, 4, 2}, 1).track();
  const Parameter filters = normal_parameter({3, 3, 3, 2}, 2), matrix = normal_parameter({5, 2}, 3);
  for (const Parameter& p : {filters, matrix}) p.set_trainable(false);
  const Tensor y = conv2d(x, filters), z = linear(x, matrix);
  for (const Parameter& p : {filters, matrix}) p.set_trainable(true);
  for (const Tensor& result : {y, z}) backward(result, Tensor::full(result.shape(), 1, Dtype::float64));
  for (const Parameter& p : {filters, matrix}) EXPECT_EQ(largest(p.grad()), 0);
  EXPECT_GT(largest(x.grad()), 0);
}

TEST(Conv2d, AnEmptyBatchIsNoError) {
  const Parameter w = zeros({4, 3, 3, 2}), d = zeros({2, 3, 3, 1});
  Tensor x = Tensor::zeros({0, 5, 5, 2});
  x.track();
  for (const Tensor& y : {conv2d(x, w), conv2d(x, d, {}, {1, 1, 1, 2})}) {
    EXPECT_EQ(y.size(0), 0);
    backward(y, Tensor::like(y));
  }
  EXPECT_EQ(w.grad().at(0), 0.0);
}

TEST(Conv2d, AnEmptySideIsPaddingAlone) {
  for (const std::int64_t groups : {1, 2}) {
    const Parameter w(Tensor::full({2, 3, 3, 2 / groups}, 1), Role::matrix), b(Tensor::full({2}, 3), Role::vector);
    for (const Shape& shape : {Shape{1, 0, 4, 2}, Shape{1, 4, 0, 2}}) {
      const Tensor x = Tensor::zeros(shape).track();
      const Tensor y = conv2d(x, w, b, {.padding = 2, .groups = groups});
      ASSERT_EQ(y.elements(), 2 * 2 * 6);
      for (std::int64_t i = 0; i < y.elements(); ++i) EXPECT_EQ(y.at(i), 3);
      backward(y, Tensor::full(y.shape(), 1));
      EXPECT_EQ(x.grad().shape(), shape);
    }
  }
}

TEST(Conv2d, Errors) {
  const Tensor x = Tensor::zeros({8, 32, 32, 3});
  const auto error = [&](const Shape& w, const Conv2dOptions& o) {
    return error_text([&] { conv2d(x, zeros(w), {}, o); });
  };
  EXPECT_EQ(error({32, 3, 3, 16}, {}),
            "conv2d: weight expects 16 input channels, input has 3 (x [8,32,32,3], w [32,3,3,16])");
  EXPECT_EQ(error({32, 3, 3, 1}, {1, 0, 1, 2}),
            "conv2d: 3 input and 32 output channels cannot be split into 2 groups (x [8,32,32,3], w [32,3,3,1])");
  EXPECT_EQ(error({6, 3, 3, 3}, {1, 0, 1, 3}),
            "conv2d: weight expects 9 input channels (3 groups of 3), input has 3 (x [8,32,32,3], w [6,3,3,3])");
  EXPECT_EQ(error({6, 3, 3, 3}, {1, 2, 18}),
            "conv2d: the kernel spans 37x37 pixels (dilation 18), the image with its padding of 2 has 36x36 "
            "(x [8,32,32,3], w [6,3,3,3])");
  EXPECT_EQ(error({6, 3, 3, 3}, {0}), "conv2d: stride must be at least 1, got 0");
  EXPECT_EQ(error({6, 3, 3, 3}, {1, -1}), "conv2d: padding must be at least 0, got -1");
  EXPECT_EQ(error({6, 3, 3, 3}, {1, 0, 0}), "conv2d: dilation must be at least 1, got 0");
  EXPECT_EQ(error({6, 3, 3, 3}, {1, 0, 1, 0}), "conv2d: groups must be at least 1, got 0");
  EXPECT_EQ(error({6, 3}, {}), "conv2d: expected x [N,H,W,C] and w [O,Kh,Kw,C/groups] (x [8,32,32,3], w [6,3])");
  EXPECT_EQ(error({0, 3, 3, 3}, {}), "conv2d: the weight has no elements (x [8,32,32,3], w [0,3,3,3])");
  EXPECT_EQ(error_text([&] {
              conv2d(x, zeros({4, 3, 3, 3}), zeros({5}));
            }),
            "conv2d: expected a bias of 4 elements like the weight's, got b [5] float32 (x [8,32,32,3], w [4,3,3,3])");
  EXPECT_EQ(error_text([&] {
              conv2d(x.to(Dtype::float64), zeros({4, 3, 3, 3}));
            }),
            "conv2d: expected x and weight of one type, or bfloat16 with float32 (x [8,32,32,3] float64, w [4,3,3,3] "
            "float32)");
  EXPECT_EQ(error_text([&] {
              conv2d(Tensor(), zeros({4, 3, 3, 3}));
            }),
            "conv2d: expected an input and a weight, got an undefined one");
  EXPECT_EQ(
      error_text([&] {
        conv2d(Tensor::zeros({1, 5, 5, 3}, Dtype::int32), zeros({4, 3, 3, 3}));
      }),
      "conv2d: expected x and weight of one type, or bfloat16 with float32 (x [1,5,5,3] int32, w [4,3,3,3] float32)");
}

TEST(Conv2d, SharedDepthwiseErrors) {
  const Tensor x = Tensor::zeros({2, 5, 5, 12});
  const auto error = [&](const Shape& w, std::int64_t channels, std::int64_t groups) {
    return error_text([&] { depthwise_conv2d_shared(x, zeros(w), {}, {1, 1, 1, channels}, groups); });
  };
  EXPECT_EQ(error({4, 3, 3, 1}, 4, 2),
            "conv2d: 4 filters shared by 2 groups expect 8 input channels, input has 12 (x [2,5,5,12], w [4,3,3,1])");
  EXPECT_EQ(error({4, 3, 3, 1}, 2, 3),
            "conv2d: a shared depthwise filter bank is w [C,Kh,Kw,1] with C groups, got 2 groups (x [2,5,5,12], w "
            "[4,3,3,1])");
  EXPECT_EQ(error({4, 3, 3, 3}, 4, 3),
            "conv2d: a shared depthwise filter bank is w [C,Kh,Kw,1] with C groups, got 4 groups (x [2,5,5,12], w "
            "[4,3,3,3])");
}

TEST(Conv2d, ModuleErrors) {
  Random random(1, Purpose::init);
  EXPECT_EQ(error_text([&] {
              Conv2d(6, 8, 3, {1, 1, 1, 4}, true, random);
            }),
            "conv2d: 6 input and 8 output channels cannot be split into 4 groups");
  EXPECT_EQ(error_text([&] { Conv2d(6, 8, 0, {}, true, random); }),
            "conv2d: expected at least 1 input channel, 1 output channel and a kernel of 1, got 6, 8 and 0");
}

TEST(Linear, Errors) {
  const Tensor x = Tensor::zeros({5, 7});
  const auto error = [&](const Shape& w, const Parameter& b) { return error_text([&] { linear(x, zeros(w), b); }); };
  EXPECT_EQ(error({3, 8}, {}), "linear: weight expects 8 inputs, x has 7 (x [5,7] float32, w [3,8] float32)");
  EXPECT_EQ(error({3}, {}), "linear: expected x [..., in] and weight [out, in] (x [5,7] float32, w [3] float32)");
  EXPECT_EQ(
      error({3, 7}, zeros({7})),
      "linear: expected a bias of 3 elements like the weight's, got b [7] float32 (x [5,7] float32, w [3,7] float32)");
  EXPECT_EQ(error_text([&] {
              linear(x.to(Dtype::float64), zeros({3, 7}));
            }),
            "linear: expected x and weight of one type, or bfloat16 with float32 (x [5,7] float64, w [3,7] float32)");
  Random random(1, Purpose::init);
  EXPECT_EQ(error_text([&] { Linear(0, 4, true, random); }),
            "linear: expected at least 1 input and 1 output, got 0 and 4");
}

}  // namespace
}  // namespace dattn::test
