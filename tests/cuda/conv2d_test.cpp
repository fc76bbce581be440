// Convolutions on the device whose sizes take more than one tile, step and part, in both storage types, by own kernels
// and by cuDNN, against the CPU in float64.
#include <gtest/gtest.h>

#include <array>
#include <ostream>
#include <vector>

#include "cuda/conv2d_cudnn.h"
#include "cuda/enable.h"
#include "layers/conv2d_max_pool.h"
#include "slots.h"

namespace dattn::test {
namespace {

struct Case {
  const char* name;
  Shape x, w;
  Conv2dOptions options{};
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

enum class By : unsigned char { own, own_bfloat16, cudnn };  // cuDNN's are bfloat16
const char* name(By by) { return std::array{"", "_bfloat16", "_cudnn"}[static_cast<std::size_t>(by)]; }
void PrintTo(By by, std::ostream* out) { *out << name(by); }

class CudaConv2d : public testing::TestWithParam<std::tuple<Case, By>> {
 protected:
  void SetUp() override {
    cuda::enable();
    if (by() == By::cudnn && !cuda::cudnn::available()) GTEST_SKIP() << "this build has no cuDNN";
    cuda::cudnn::set_enabled(by() == By::cudnn);
  }
  void TearDown() override { cuda::cudnn::set_enabled(cuda::cudnn::available()); }

  const Case& c() const { return std::get<0>(GetParam()); }
  By by() const { return std::get<1>(GetParam()); }
  Dtype dtype() const { return by() == By::own ? Dtype::float32 : Dtype::bfloat16; }
  // cuDNN's gradient of the filters is rounded before it is added.
  double filter_bound() const { return float_bound(map().rows()) + (by() == By::cudnn ? 0x1p-8 : 0); }
  // It takes convolutions without a bias.
  Tensor bias_there() const { return by() == By::cudnn ? Tensor() : on_device(b()); }
  Shape map() const {
    return {c().x[0], conv2d_size(c().x[1], c().w[1], c().options), conv2d_size(c().x[2], c().w[2], c().options),
            c().w[0]};
  }
  Tensor x() const { return rounded(normal(c().x, 1), dtype()); }
  // Parameters are float32; bfloat16 products round them.
  Tensor w() const { return rounded(normal(c().w, 2, 0.2), dtype()); }
  Tensor b() const { return rounded(normal({c().w[0]}, 3, by() == By::cudnn ? 0 : 1), Dtype::float32); }
  Tensor dy(const Shape& shape) const { return rounded(normal(shape, 4), dtype()); }
  Tensor there(const Tensor& t) const { return on_device(t, dtype()); }
  double forward_bound() const { return float_bound(c().w.elements() / c().w[0]); }

  // Expects the taps that the CPU has, or others that hold as much but for what a sum's rounding may be.
  void expect_taps(const Tensor& got, const Tensor& expected) const {
    Tensor y = Tensor::empty(map(), Dtype::float64);
    conv2d_forward(x(), w(), b(), c().options, y);
    const std::int64_t channels = y.size(3), columns = expected.size(2), rows = expected.size(1);
    const auto held = [&](std::int64_t i, std::int64_t tap) {
      const std::int64_t at = i / channels, row = at / columns % rows * 2 + tap / 2,
                         column = at % columns * 2 + tap % 2;
      return y.at(((at / columns / rows * y.size(1) + row) * y.size(2) + column) * channels + i % channels);
    };
    for (std::int64_t i = 0; i < expected.elements(); ++i) {
      const auto tap = static_cast<std::int64_t>(got.at(i)), right = static_cast<std::int64_t>(expected.at(i));
      ASSERT_TRUE(tap >= 0 && tap < 4) << tap;
      ASSERT_NEAR(held(i, tap), held(i, right), forward_bound() * largest(y)) << i;
    }
  }
};

// A shape without a plan goes to the other kernels, and tests would be of these. The network's convolutions have one.
TEST_P(CudaConv2d, CudnnHasAPlan) {
  const Conv2dOptions& o = c().options;
  if (by() != By::cudnn || o.groups > 1 || c().x[3] % 8 != 0 || c().w[0] % 8 != 0) GTEST_SKIP() << "not for cuDNN";
  using cuda::cudnn::Direction;
  for (const Direction direction : {Direction::forward, Direction::data, Direction::filter}) {
    EXPECT_TRUE(cuda::cudnn::find_plan({direction, c().x[0], c().x[1], c().x[2], c().x[3], c().w[0], c().w[1], c().w[2],
                                        map()[1], map()[2], o.stride, o.padding, o.dilation}))
        << static_cast<int>(direction);
  }
}

TEST_P(CudaConv2d, GivesTheSameBitsAgain) {
  const auto once = [&] {
    std::vector<Tensor> results{empty_on_device(map(), dtype()), empty_on_device(c().x, dtype()), on_device(w())};
    conv2d_forward(there(x()), on_device(w()), bias_there(), c().options, results[0]);
    conv2d_backward_data(there(dy(map())), on_device(w()), c().options, results[1]);
    conv2d_backward_filter(there(dy(map())), there(x()), c().options, results[2]);
    return results;
  };
  const auto first = once(), second = once();
  for (std::size_t i = 0; i < first.size(); ++i) {
    EXPECT_TRUE(same_bits(first[i].to(Device::cpu), second[i].to(Device::cpu))) << i;
  }
}

TEST_P(CudaConv2d, IsTheCpus) {
  Tensor y = Tensor::empty(map(), Dtype::float64), dx = Tensor::empty(c().x, Dtype::float64), dw = w();
  Tensor y_there = empty_on_device(map(), dtype()), dx_there = empty_on_device(c().x, dtype()),
         dw_there = on_device(dw);
  conv2d_forward(x(), w(), b(), c().options, y);
  conv2d_forward(there(x()), on_device(w()), bias_there(), c().options, y_there);
  expect_near(y_there, y, forward_bound(), "y");
  conv2d_backward_data(dy(map()), w(), c().options, dx);
  conv2d_backward_data(there(dy(map())), on_device(w()), c().options, dx_there);
  expect_near(dx_there, dx, float_bound(c().w.elements() / c().w[3]), "dx");
  conv2d_backward_filter(dy(map()), x(), c().options, dw);
  conv2d_backward_filter(there(dy(map())), there(x()), c().options, dw_there);
  expect_near(dw_there, dw, filter_bound(), "dw");
}

TEST_P(CudaConv2d, WithMaxPoolingIsTheCpus) {
  if (map()[1] < 2 || map()[2] < 2) GTEST_SKIP() << "nothing to pool";
  const Shape pooled{map()[0], map()[1] / 2, map()[2] / 2, map()[3]};
  Tensor y = Tensor::empty(pooled, Dtype::float64), taps = Tensor::empty(pooled, Dtype::uint8);
  Tensor dx = Tensor::empty(c().x, Dtype::float64), dw = w();
  Tensor y_there = empty_on_device(pooled, dtype()), taps_there = empty_on_device(pooled, Dtype::uint8),
         dx_there = empty_on_device(c().x, dtype()), dw_there = on_device(dw);
  conv2d_max_pool2_forward(x(), w(), b(), c().options, y, taps);
  conv2d_max_pool2_forward(there(x()), on_device(w()), on_device(b()), c().options, y_there, taps_there);
  expect_near(y_there, y, forward_bound(), "y");
  expect_taps(taps_there.to(Device::cpu), taps);
  conv2d_max_pool2_backward(dy(pooled), taps_there.to(Device::cpu), x(), w(), c().options, dx, dw);
  conv2d_max_pool2_backward(there(dy(pooled)), taps_there, there(x()), on_device(w()), c().options, dx_there, dw_there);
  expect_near(dx_there, dx, float_bound(c().w.elements() / c().w[3]), "dx");
  expect_near(dw_there, dw, filter_bound(), "dw");
}

std::string case_name(const testing::TestParamInfo<std::tuple<Case, By>>& info) {
  return std::string(std::get<0>(info.param).name) + name(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, CudaConv2d,
    testing::Combine(testing::ValuesIn({Case{"whole_chunks", {3, 11, 13, 24}, {72, 3, 3, 24}, {1, 1}},
                                        Case{"padded_chunks", {2, 9, 10, 3}, {67, 3, 3, 3}, {1, 1}},
                                        Case{"two_tiles_of_channels", {1, 5, 7, 40}, {136, 3, 3, 40}, {1, 1}},
                                        Case{"stride", {2, 13, 11, 16}, {24, 3, 3, 16}, {2, 1}},
                                        Case{"groups", {2, 9, 8, 24}, {16, 3, 2, 12}, {2, 2, 2, 2}},
                                        Case{"many_pixels", {3, 21, 20, 8}, {8, 2, 2, 8}},
                                        Case{"pixels_in_many_parts", {1, 97, 90, 3}, {5, 1, 2, 3}}}),
                     testing::Values(By::own, By::own_bfloat16, By::cudnn)),
    case_name);

}  // namespace
}  // namespace dattn::test
