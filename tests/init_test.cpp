// Initialisers: statistics of the random ones, the identity of dirac, unit covariance after whitening, errors by their
// text.
#include "layers/init.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "error_text.h"
#include "layers/conv2d.h"
#include "layers/linear.h"
#include "op_cases.h"

namespace dattn::test {
namespace {

struct Statistics {
  double mean = 0, std = 0, low = INFINITY, high = -INFINITY;
  explicit Statistics(const Tensor& w) {
    const auto n = static_cast<double>(w.elements());
    for (std::int64_t i = 0; i < w.elements(); ++i) {
      mean += w.at(i) / n;
      std += w.at(i) * w.at(i) / n;
      low = std::min(low, w.at(i)), high = std::max(high, w.at(i));
    }
    std = std::sqrt(std - mean * mean);
  }
};

// Some 37,000 numbers: the standard error of a standard deviation is below 0.4 %, and a mean's below 0.6 % of it.
const Shape kFilters = {64, 3, 3, 65};
constexpr double kFanIn = 9 * 65, kFanOut = 9 * 64;

void expect_std(const std::function<void(Tensor, Random&)>& initialise, double std) {
  Random random(7, Purpose::init);
  Tensor w = Tensor::empty(kFilters);
  initialise(w, random);
  const Statistics s(w);
  EXPECT_NEAR(s.mean, 0, 0.03 * std);
  EXPECT_NEAR(s.std, std, 0.02 * std);
}

TEST(Init, StandardDeviations) {
  expect_std([](Tensor w, Random& r) { init::uniform(w, -2, 2, r); }, 2 / std::sqrt(3));
  expect_std([](Tensor w, Random& r) { init::normal(w, 0, 0.3, r); }, 0.3);
  expect_std([](Tensor w, Random& r) { init::kaiming_uniform(w, 0, r); }, std::sqrt(2 / kFanIn));
  expect_std([](Tensor w, Random& r) { init::kaiming_normal(w, 0.5, r); }, std::sqrt(2 / 1.25 / kFanIn));
  expect_std([](Tensor w, Random& r) { init::kaiming_normal(w, 0, r, init::FanMode::out); }, std::sqrt(2 / kFanOut));
  expect_std([](Tensor w, Random& r) { init::xavier_uniform(w, 1, r); }, std::sqrt(2 / (kFanIn + kFanOut)));
  expect_std([](Tensor w, Random& r) { init::xavier_normal(w, 2, r); }, 2 * std::sqrt(2 / (kFanIn + kFanOut)));
  expect_std([](Tensor w, Random& r) { init::truncated_normal(w, 0.02, r); }, 0.02);
  // The standard normal within [-2, 2] has this standard deviation.
  expect_std([](Tensor w, Random& r) { init::truncated_normal(w, 1, r); }, 0.8796);
}

TEST(Init, Bounds) {
  Random random(3, Purpose::init);
  Tensor w = Tensor::empty(kFilters);
  init::truncated_normal(w, 1, random, 0.5, -1, 1.5);
  Statistics s(w);
  EXPECT_GE(s.low, -1);
  EXPECT_LE(s.high, 1.5);
  EXPECT_GT(s.high, 1.49);
  init::kaiming_uniform(w, std::sqrt(5.0), random);
  s = Statistics(w);
  EXPECT_LE(std::max(-s.low, s.high), 1 / std::sqrt(kFanIn) + 1e-9);
  EXPECT_GT(std::min(-s.low, s.high), 0.999 / std::sqrt(kFanIn));
}

TEST(Init, DefaultsOfTheLayersArePyTorchs) {
  Random random(5, Purpose::init);
  const Conv2d conv(64, 512, 3, {1, 1, 1, 2}, true, random);
  const Linear linear(100, 2000, true, random);
  for (const auto& [parameter, fan_in] :
       {std::pair{conv.weight, 9 * 32.0}, {conv.bias, 9 * 32.0}, {linear.weight, 100.0}, {linear.bias, 100.0}}) {
    const Statistics s(parameter.value());
    const double bound = 1 / std::sqrt(fan_in);
    EXPECT_LE(std::max(-s.low, s.high), bound * (1 + 1e-6));
    EXPECT_GT(std::min(-s.low, s.high), 0.98 * bound);
    EXPECT_NEAR(s.std, bound / std::sqrt(3), 0.05 * bound);
  }
  EXPECT_EQ(conv.weight.role(), Role::matrix);
  EXPECT_EQ(conv.bias.role(), Role::vector);
}

TEST(Init, OneSeedGivesTheSameNumbers) {
  Random a(9, Purpose::init), b(9, Purpose::init);
  const Linear first(4, 5, true, a), second(4, 5, true, b);
  for (std::int64_t i = 0; i < 20; ++i) EXPECT_EQ(first.weight.value().at(i), second.weight.value().at(i));
}

TEST(Init, DiracPassesChannelsOn) {
  const Parameter w = normal_parameter({5, 3, 3, 3}, 1);
  init::dirac(w.value().slice(0, 3));
  const Tensor x = normal({2, 4, 5, 3}, 2), y = conv2d(x, w, {}, {1, 1});
  for (std::int64_t i = 0; i < x.elements(); ++i) EXPECT_EQ(y.at(i / 3 * 5 + i % 3), x.at(i));
  EXPECT_NE(w.value().at(3 * 27), 0.0) << "the filters after those given are left as they were";
  Tensor wide = Tensor::empty({2, 2, 3, 4});
  init::dirac(wide);
  EXPECT_EQ(wide.at(((0 * 2 + 1) * 3 + 1) * 4 + 0), 1.0);
  EXPECT_EQ(wide.at(((1 * 2 + 1) * 3 + 1) * 4 + 1), 1.0);
}

// Images whose neighbouring pixels and channels go together.
Tensor correlated_images() {
  const Tensor noise = normal({40, 10, 10, 3}, 3);
  Tensor images = Tensor::empty({40, 9, 9, 3});
  for (std::int64_t i = 0; i < images.elements(); ++i) {
    const std::int64_t c = i % 3, w = i / 3 % 9, h = i / 27 % 9, n = i / 243, at = ((n * 10 + h) * 10 + w) * 3;
    images.data<float>()[i] =
        static_cast<float>(noise.at(at + c) + noise.at(at + 3 + c) + 0.7 * noise.at(at + 30) + 0.2);
  }
  return images;
}

TEST(Init, WhiteningGivesUnitSecondMoments) {
  const Tensor images = correlated_images();
  Parameter w(Tensor::empty({24, 2, 2, 3}), Role::frozen);
  init::whitening(w.value(), images, 1e-9);
  const Tensor y = conv2d(images, w);
  const std::int64_t pixels = y.elements() / 24;
  for (std::int64_t a = 0; a < 12; ++a) {
    for (std::int64_t b = 0; b < 12; ++b) {
      double moment = 0;
      for (std::int64_t i = 0; i < pixels; ++i)
        moment += y.at(i * 24 + a) * y.at(i * 24 + b) / static_cast<double>(pixels);
      EXPECT_NEAR(moment, a == b, 2e-5) << a << "," << b;
    }
  }
  const Tensor& v = w.value();
  double norm_before = INFINITY;  // falls: eigenvalues ascend, and a filter's norm is 1 / sqrt(eigenvalue)
  for (std::int64_t i = 0; i < 12; ++i) {
    double norm = 0, largest = 0;
    for (std::int64_t j = 0; j < 12; ++j) {
      EXPECT_EQ(v.at(i * 12 + j), -v.at((12 + i) * 12 + j));
      norm += v.at(i * 12 + j) * v.at(i * 12 + j);
      if (std::abs(v.at(i * 12 + j)) > std::abs(largest)) largest = v.at(i * 12 + j);
    }
    EXPECT_GT(largest, 0);
    EXPECT_LE(norm, norm_before * (1 + 1e-6));
    norm_before = norm;
  }
}

TEST(Init, Errors) {
  Random random(1, Purpose::init);
  EXPECT_EQ(error_text([&] { init::kaiming_normal(Tensor::empty({5}), 0, random); }),
            "init: expected a weight [out, in] or filters [O,Kh,Kw,I], got [5]");
  EXPECT_EQ(error_text([&] {
              init::xavier_normal(Tensor::empty({5, 0}), 1, random);
            }),
            "init: a weight of shape [5,0] has no elements");
  EXPECT_EQ(error_text([&] { init::truncated_normal(Tensor::empty({5}), 0.1, random, 0, 1, 2); }),
            "truncated_normal: mean 0 and std 0.1 leave next to nothing within [1, 2]");
  EXPECT_EQ(error_text([&] { init::dirac(Tensor::empty({5, 2})); }), "dirac: expected filters [O,Kh,Kw,I], got [5,2]");
  const Tensor images = Tensor::zeros({2, 4, 4, 3});
  EXPECT_EQ(
      error_text([&] {
        init::whitening(Tensor::empty({12, 2, 2, 3}), images);
      }),
      "whitening: patches of 12 numbers need 24 filters, w has 12 (w [12,2,2,3] float32, images [2,4,4,3] float32)");
  EXPECT_EQ(error_text([&] {
              init::whitening(Tensor::empty({24, 2, 2, 3}), Tensor::zeros({0, 4, 4, 3}));
            }),
            "whitening: expected filters [O,Kh,Kw,C] and at least one image [n,H,W,C] "
            "(w [24,2,2,3] float32, images [0,4,4,3] float32)");
  EXPECT_EQ(error_text([&] {
              init::whitening(Tensor::empty({150, 5, 5, 3}), images);
            }),
            "whitening: images are smaller than the filters (w [150,5,5,3] float32, images [2,4,4,3] float32)");
}

}  // namespace
}  // namespace dattn::test
