// Winograd's convolution in float against the direct one in double.
#include "layers/winograd.h"

#include <gtest/gtest.h>

#include <cmath>
#include <ostream>

#include "core/random.h"
#include "instruction_sets.h"
#include "layers/pool2d.h"
#include "op_cases.h"
#include "op_compare.h"

namespace dattn::test {
namespace {

struct Sizes {
  std::int64_t N, H, W, C, O, padding;
};

void PrintTo(const Sizes& s, std::ostream* out) {
  *out << s.N << "x" << s.H << "x" << s.W << "x" << s.C << " to " << s.O << ", padding " << s.padding;
}

Tensor normal(const Shape& shape, std::uint64_t seed) {
  Tensor x = Tensor::empty(shape);
  const Random random(seed, Purpose::test);
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    x.data<float>()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  return x;
}

// The largest difference, in units of the largest value.
double error(const Tensor& found, const Tensor& right) {
  double difference = 0, largest = 0;
  for (std::int64_t i = 0; i < right.elements(); ++i) {
    difference = std::max(difference, std::abs(found.at(i) - right.at(i)));
    largest = std::max(largest, std::abs(right.at(i)));
  }
  return difference / largest;
}

// The bound of the suite Float for sums of `terms` products.
double bound(std::int64_t terms) { return (4 + 8 * std::sqrt(static_cast<double>(terms))) * 1.2e-7; }

struct Problem {
  Tensor x, w, b, dy;
  Conv2dOptions options;

  explicit Problem(const Sizes& s)
      : x(normal({s.N, s.H, s.W, s.C}, 1)),
        w(normal({s.O, 3, 3, s.C}, 2)),
        b(normal({s.O}, 3)),
        dy(normal({s.N, s.H + 2 * s.padding - 2, s.W + 2 * s.padding - 2, s.O}, 4)),
        options{1, s.padding} {}
};

struct Results {
  Tensor y, dx, dw;
};

Results winograd(const Problem& p) {
  Results r = {Tensor::empty(p.dy.shape()), Tensor::empty(p.x.shape()), Tensor::full(p.w.shape(), 2)};
  winograd_forward(p.x, p.w, p.b, p.options, r.y);
  winograd_backward_data(p.dy, p.w, p.options, r.dx);
  winograd_backward_filter(p.dy, p.x, p.options, r.dw);
  return r;
}

Results direct(const Problem& p) {
  const auto wide = [](const Tensor& t) { return t.to(Dtype::float64); };
  Results r = {Tensor::empty(p.dy.shape(), Dtype::float64), Tensor::empty(p.x.shape(), Dtype::float64),
               Tensor::full(p.w.shape(), 2, Dtype::float64)};
  conv2d_forward(wide(p.x), wide(p.w), wide(p.b), p.options, r.y);
  conv2d_backward_data(wide(p.dy), wide(p.w), p.options, r.dx);
  conv2d_backward_filter(wide(p.dy), wide(p.x), p.options, r.dw);
  return r;
}

class WinogradSizes : public testing::TestWithParam<Sizes> {};

TEST_P(WinogradSizes, IsCloseToTheDirectSums) {
  const Sizes s = GetParam();
  const Problem p(s);
  const Results right = direct(p);
  on_every_instruction_set([&] {
    const Results found = winograd(p);
    EXPECT_LE(error(found.y, right.y), bound(9 * s.C));
    EXPECT_LE(error(found.dx, right.dx), bound(9 * s.O));
    EXPECT_LE(error(found.dw, right.dw), bound(s.N * p.dy.size(1) * p.dy.size(2)));
  });
}

TEST_P(WinogradSizes, AnyNumberOfThreadsGivesTheSameBits) {
  const Problem p(GetParam());
  expect_same_with_threads([&] {
    const Results r = winograd(p);
    return std::vector{r.y, r.dx, r.dw};
  });
}

INSTANTIATE_TEST_SUITE_P(Winograd, WinogradSizes,
                         testing::Values(Sizes{2, 4, 4, 16, 16, 1}, Sizes{3, 7, 7, 24, 40, 1},
                                         Sizes{2, 15, 13, 37, 19, 1}, Sizes{1, 9, 6, 16, 33, 0},
                                         Sizes{2, 5, 3, 17, 16, 2}, Sizes{1, 3, 4, 64, 130, 3},
                                         Sizes{5, 31, 9, 3, 2, 1}, Sizes{1, 3, 3, 1, 1, 0},
                                         Sizes{7, 15, 16, 20, 35, 1},  // many blocks of squares
                                         // squares of several sizes: what is left of a side is 3, 2, 1 or nothing
                                         Sizes{24, 7, 6, 17, 20, 1}, Sizes{25, 3, 9, 16, 35, 1},
                                         Sizes{60, 5, 8, 20, 16, 1}, Sizes{30, 2, 4, 3, 2, 1},
                                         Sizes{24, 1, 2, 16, 16, 1}));

// --- with max pooling ---

struct PooledResults {
  Tensor y, taps, dx, dw;
};

Tensor pooled_gradient(const Problem& p) {
  return normal({p.dy.size(0), p.dy.size(1) / 2, p.dy.size(2) / 2, p.dy.size(3)}, 5);
}

PooledResults winograd_pool(const Problem& p) {
  const Tensor dy = pooled_gradient(p);
  PooledResults r = {Tensor::empty(dy.shape()), Tensor::empty(dy.shape(), Dtype::uint8), Tensor::empty(p.x.shape()),
                     Tensor::full(p.w.shape(), 2)};
  winograd_pool_forward(p.x, p.w, p.b, r.y, r.taps);
  winograd_pool_backward_data(dy, r.taps, p.w, r.dx);
  winograd_pool_backward_filter(dy, r.taps, p.x, r.dw);
  return r;
}

// In double, with the maxima where `taps` says.
PooledResults direct_pool(const Problem& p, const Tensor& taps) {
  const auto wide = [](const Tensor& t) { return t.to(Dtype::float64); };
  const Tensor dy = pooled_gradient(p);
  PooledResults r = {Tensor::empty(dy.shape(), Dtype::float64), Tensor::empty(dy.shape(), Dtype::uint8),
                     Tensor::empty(p.x.shape(), Dtype::float64), Tensor::full(p.w.shape(), 2, Dtype::float64)};
  Tensor map = Tensor::empty(p.dy.shape(), Dtype::float64), dmap = Tensor::empty(p.dy.shape(), Dtype::float64);
  conv2d_forward(wide(p.x), wide(p.w), wide(p.b), p.options, map);
  max_pool2d_forward(map, {2, 2, 0}, r.y, r.taps);
  max_pool2d_backward(wide(dy), taps, {2, 2, 0}, dmap);
  conv2d_backward_data(dmap, wide(p.w), p.options, r.dx);
  conv2d_backward_filter(dmap, wide(p.x), p.options, r.dw);
  return r;
}

class WinogradPoolSizes : public testing::TestWithParam<Sizes> {};

TEST_P(WinogradPoolSizes, IsCloseToTheDirectSums) {
  const Sizes s = GetParam();
  const Problem p(s);
  on_every_instruction_set([&] {
    const PooledResults found = winograd_pool(p), right = direct_pool(p, found.taps);
    EXPECT_LE(error(found.y, right.y), bound(9 * s.C));
    EXPECT_LE(error(found.dx, right.dx), bound(9 * s.O));
    EXPECT_LE(error(found.dw, right.dw), bound(s.N * p.dy.size(1) * p.dy.size(2)));
    std::int64_t others = 0;  // maxima elsewhere: only where two values are as good as equal
    for (std::int64_t i = 0; i < found.taps.elements(); ++i) others += found.taps.at(i) != right.taps.at(i);
    EXPECT_LE(others, found.taps.elements() / 1000);
  });
}

INSTANTIATE_TEST_SUITE_P(Winograd, WinogradPoolSizes,
                         testing::Values(Sizes{2, 4, 4, 16, 16, 1}, Sizes{3, 7, 7, 24, 40, 1},
                                         Sizes{2, 15, 13, 37, 19, 1}, Sizes{1, 2, 2, 1, 1, 1}, Sizes{5, 31, 9, 3, 2, 1},
                                         Sizes{2, 3, 10, 64, 130, 1}, Sizes{24, 7, 8, 17, 20, 1},
                                         Sizes{30, 15, 5, 16, 33, 1}, Sizes{60, 2, 3, 20, 16, 1}));

TEST(Winograd, SuitsThreeByThreeKernelsInFloat) {
  const auto suits = [](const Shape& x, const Shape& w, const Conv2dOptions& o, Dtype dtype) {
    const Tensor filters = Tensor::zeros(w, dtype);
    const Shape y = {x[0], conv2d_size(x[1], w[1], o), conv2d_size(x[2], w[2], o), w[0]};
    return winograd_suits(filters, o, x, y);
  };
  const Conv2dOptions padded{1, 1};
  EXPECT_TRUE(suits({10, 15, 15, 64}, {64, 3, 3, 64}, padded, Dtype::float32));
  EXPECT_FALSE(suits({10, 15, 15, 64}, {64, 3, 3, 64}, padded, Dtype::float64));
  EXPECT_FALSE(suits({10, 15, 15, 3}, {64, 3, 3, 3}, padded, Dtype::float32));
  EXPECT_FALSE(suits({10, 15, 15, 64}, {64, 5, 5, 64}, {1, 2}, Dtype::float32));
  EXPECT_FALSE(suits({10, 15, 15, 64}, {64, 3, 3, 64}, {2, 1}, Dtype::float32));
  EXPECT_FALSE(suits({10, 15, 15, 64}, {64, 3, 3, 64}, {1, 2, 2}, Dtype::float32));
  EXPECT_FALSE(suits({10, 15, 15, 64}, {64, 3, 3, 32}, {1, 1, 1, 2}, Dtype::float32));
  EXPECT_FALSE(suits({1, 7, 7, 256}, {256, 3, 3, 256}, padded, Dtype::float32));
}

}  // namespace
}  // namespace dattn::test
