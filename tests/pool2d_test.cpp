// Pooling: ties, NaN, infinities, sizes and errors by their text.
#include "layers/pool2d.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "error_text.h"
#include "op_cases.h"

namespace dattn::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();

// One image [1,H,W,1] pooled in float; what comes of x and of the gradient 1, 2, 3, ... of y.
struct Pooled {
  std::vector<double> y, dx;
};
Pooled max_pooled(std::int64_t H, std::int64_t W, const std::vector<double>& values, std::int64_t kernel,
                  std::int64_t stride, std::int64_t padding) {
  Tensor x = Tensor::from<double>({1, H, W, 1}, values).to(Dtype::float32).track();
  const Tensor y = max_pool2d(x, kernel, stride, padding);
  Tensor dy = Tensor::like(y);
  for (std::int64_t i = 0; i < y.elements(); ++i) dy.data<float>()[i] = static_cast<float>(i + 1);
  backward(y, dy);
  Pooled result;
  for (std::int64_t i = 0; i < y.elements(); ++i) result.y.push_back(y.at(i));
  for (std::int64_t i = 0; i < x.elements(); ++i) result.dx.push_back(x.grad().at(i));
  return result;
}

TEST(MaxPool2d, TheFirstOfEqualValuesTakesTheGradient) {
  const Pooled p = max_pooled(2, 4,
                              {5, 5, 1, 7,  //
                               5, 5, 7, 7},
                              2, 2, 0);
  EXPECT_EQ(p.y, (std::vector<double>{5, 7}));
  EXPECT_EQ(p.dx, (std::vector<double>{1, 0, 0, 2, 0, 0, 0, 0}));
}

TEST(MaxPool2d, OverlappingWindowsAddUp) {
  const Pooled p = max_pooled(1 + 2, 3,
                              {0, 0, 0,  //
                               0, 9, 0,  //
                               0, 0, 0},
                              2, 1, 0);
  EXPECT_EQ(p.dx, (std::vector<double>{0, 0, 0, 0, 1 + 2 + 3 + 4, 0, 0, 0, 0}));
}

TEST(MaxPool2d, PaddingIsNeverTheMaximum) {
  const Pooled p = max_pooled(2, 2, {-5, -6, -7, -8}, 3, 1, 1);
  EXPECT_EQ(p.y, (std::vector<double>{-5, -5, -5, -5}));
  EXPECT_EQ(p.dx, (std::vector<double>{10, 0, 0, 0}));
}

TEST(MaxPool2d, WindowsOfMinusInfinityGiveTheirFirstPixel) {
  const Pooled p = max_pooled(2, 2, {-kInf, -kInf, -kInf, -kInf}, 2, 2, 1);  // four windows of one pixel each
  EXPECT_EQ(p.y, (std::vector<double>{-kInf, -kInf, -kInf, -kInf}));
  EXPECT_EQ(p.dx, (std::vector<double>{1, 2, 3, 4}));
}

TEST(MaxPool2d, NanIsLargerThanAllAndTheLastOneTakesTheGradient) {  // as in PyTorch
  const Pooled p = max_pooled(2, 4,
                              {kNan, 1, 2, kInf,  //
                               kNan, 3, 4, kNan},
                              2, 2, 0);
  EXPECT_TRUE(std::isnan(p.y[0]) && std::isnan(p.y[1]));
  EXPECT_EQ(p.dx, (std::vector<double>{0, 0, 0, 0, 1, 0, 0, 2}));
}

TEST(MaxPool2d, PixelsOutsideAllWindowsGetNothing) {
  const Pooled p = max_pooled(3, 3, {1, 2, 3, 4, 5, 6, 7, 8, 9}, 2, 2, 0);
  EXPECT_EQ(p.y, (std::vector<double>{5}));
  EXPECT_EQ(p.dx, (std::vector<double>{0, 0, 0, 0, 1, 0, 0, 0, 0}));
}

TEST(AvgPool2d, PaddingCountsAsZeros) {
  const Tensor x = Tensor::full({1, 2, 2, 3}, 9);
  const Tensor y = avg_pool2d(x, 3, 1, 1);
  EXPECT_EQ(y.shape(), (Shape{1, 2, 2, 3}));
  EXPECT_FLOAT_EQ(static_cast<float>(y.at(0)), 4);
}

TEST(Pool2d, ModulesAndDefaultStride) {
  const Tensor x = normal({2, 7, 9, 3}, 1);
  EXPECT_EQ(MaxPool2d{3}(x).shape(), (Shape{2, 2, 3, 3}));
  EXPECT_EQ((AvgPool2d{.kernel = 3, .stride = 2, .padding = 1})(x).shape(), (Shape{2, 4, 5, 3}));
  EXPECT_EQ(GlobalAvgPool{}(x).shape(), (Shape{2, 3}));
  EXPECT_EQ(max_pool2d(Tensor::zeros({0, 4, 4, 3}), 2).shape(), (Shape{0, 2, 2, 3}));
}

TEST(GlobalAvgPool, OfNoChannelsIsEmpty) {
  Tensor x = Tensor::zeros({2, 4, 4, 0}).track();
  const Tensor y = global_avg_pool(x);
  EXPECT_EQ(y.shape(), (Shape{2, 0}));
  backward(y, Tensor::like(y));
}

TEST(Pool2d, Errors) {
  const Tensor x = Tensor::zeros({2, 3, 8, 5});
  EXPECT_EQ(error_text([&] { max_pool2d(x, 4); }),
            "max_pool2d: kernel 4 is larger than the padded image 3x8 (padding 0, x [2,3,8,5] float32)");
  EXPECT_EQ(error_text([&] { avg_pool2d(x, 6, 1, 1); }),
            "avg_pool2d: kernel 6 is larger than the padded image 5x10 (padding 1, x [2,3,8,5] float32)");
  EXPECT_EQ(error_text([&] { max_pool2d(x, 3, 1, 2); }),
            "max_pool2d: expected padding between 0 and half of kernel 3, got 2");
  EXPECT_EQ(error_text([&] { max_pool2d(x, 2, 0); }),
            "max_pool2d: expected a kernel and a stride of at least 1, got kernel 2, stride 0");
  EXPECT_EQ(error_text([&] {
              avg_pool2d(Tensor::zeros({3, 8}), 2);
            }),
            "avg_pool2d: expected images [N,H,W,C], got x [3,8] float32");
  EXPECT_EQ(error_text([&] {
              global_avg_pool(Tensor::zeros({3, 0, 2, 8}));
            }),
            "global_avg_pool: expected images [N,H,W,C] of at least one pixel, got x [3,0,2,8] float32");
  EXPECT_EQ(error_text([&] {
              max_pool2d(Tensor::zeros({1, 2, 2, 1}, Dtype::int32), 2);
            }),
            "max_pool2d: expected float32 or float64, got int32");
}

}  // namespace
}  // namespace dattn::test
