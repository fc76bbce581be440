// Bilinear sampling: PyTorch's results at and beyond borders, points that are not finite, and errors.
#include "layers/grid_sample.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "error_text.h"

namespace dattn {
namespace {

using test::error_text;

using Numbers = std::vector<double>;

void expect_near(const Tensor& x, const Numbers& expected, const char* what) {
  ASSERT_EQ(x.elements(), static_cast<std::int64_t>(expected.size()));
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    EXPECT_NEAR(x.at(i), expected[static_cast<std::size_t>(i)], 1e-10) << what << "[" << i << "]";
  }
}

// torch.nn.functional.grid_sample of PyTorch 2.15 in float64: the centre, exact corners, edges, just outside and far
// outside.
TEST(GridSample, EqualsPyTorchAtTheBorders) {
  struct Case {
    Padding padding;
    bool align_corners;
    Numbers y, dx, dgrid;
  };
  const Case cases[] = {
      {Padding::zeros,
       false,
       {-0.375, 0.25, -0.125, 0.9625, -0.02, 0, 0, -1.43655},
       {0.5, 0, 0.1575, 0.0175, 0.12, 0.5, 0.5, 0, 0.615675, 0.153075, 0, -0.25},
       {-2.5, 2.25, 2, 1.5, -0.5, -0.375, -0.875, 2.0625, -1.2, -3.15, 0, 0, 0, 0, 5.29875, 2.05875}},
      {Padding::zeros,
       true,
       {-0.375, 1, -0.5, 2.475, 0.84, -0.1375, 0, 0.001525},
       {2, 0.0225, 0.4275, 0, 1.321275, 0.581225, 0.5, -0.11, 1.101225, 0.346275, 0, -1.99},
       {-1.875, 1.5, -9, 6, -0.75, -0.5, 3.375, 1.375, 5.4, -14.7, -0.75, 2.75, 0, 0, 3.2990625, -1.723125}},
      {Padding::border,
       false,
       {-0.375, 1, -0.5, 2.75, -0.2, -0.5, 0.5, -1.83},
       {2, 0, 0.45, 1.55, 1.2, 0.5, 0.5, 0, 2.355, 0.195, 0, -3},
       {-2.5, 2.25, 0, 0, 0, 0, -2.5, 0, 0, -31.5, 0, 0, 0, 0, 6.75, 0}},
      {Padding::border,
       true,
       {-0.375, 1, -0.5, 2.75, 1.2, -0.25, 0.5, 0.001525},
       {2, 0.025, 0.475, 1.5, 1.861275, 0.581225, 0.5, -0.2, 1.461225, 0.346275, 0, -2.8},
       {-1.875, 1.5, 0, 0, 0, 0, 3.75, 0, 0, -21, 0, 5, 0, 0, 3.2990625, -1.723125}},
  };
  for (const Case& expected : cases) {
    SCOPED_TRACE(testing::Message() << (expected.padding == Padding::zeros ? "zeros" : "border")
                                    << expected.align_corners);
    Tensor x = Tensor::from<double>({1, 3, 4, 1}, Numbers{1, -2, 3, 0.5, 4, 0.25, -1, 2, -3, 1.5, 0.75, -0.5}).track();
    Tensor grid = Tensor::from<double>({1, 2, 4, 2},
                                       Numbers{0, 0, -1, -1, 1, 1, 0.3, -1.1, -1.2, 0.4, 1.3, 0.9, 5, -7, -0.62, 0.81});
    grid.track();
    const Tensor y = grid_sample(x, grid, expected.padding, expected.align_corners);
    backward(y, Tensor::from<double>(y.shape(), Numbers{1, 2, -1, 0.5, 3, -2, 1.5, 0.75}));
    expect_near(y, expected.y, "y");
    expect_near(x.grad(), expected.dx, "dx");
    expect_near(grid.grad(), expected.dgrid, "dgrid");
  }
}

TEST(GridSample, PointsThatAreNotFiniteReadNothingOutside) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity(), kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kHuge = 1e300;
  for (const Padding padding : {Padding::zeros, Padding::border}) {
    Tensor x = Tensor::full({1, 3, 4, 5}, 2, Dtype::float64).track();
    Tensor grid = Tensor::from<double>(
                      {1, 1, 5, 2}, Numbers{kInfinity, 0, 0, -kInfinity, -kHuge, kHuge, kInfinity, -kInfinity, kNan, 0})
                      .track();
    const Tensor y = grid_sample(x, grid, padding, true);
    backward(y, Tensor::full(y.shape(), 1, Dtype::float64));
    for (std::int64_t i = 0; i < 20; ++i) EXPECT_EQ(y.at(i), padding == Padding::zeros ? 0 : 2);
    for (std::int64_t i = 20; i < 25; ++i) EXPECT_TRUE(std::isnan(y.at(i)));
    for (std::int64_t i = 0; i < 8; ++i) EXPECT_EQ(grid.grad().at(i), 0);
    for (std::int64_t i = 5; i < x.elements(); ++i) EXPECT_TRUE(std::isfinite(x.grad().at(i)));
  }
}

TEST(GridSample, ARowOfPixelsIsSeenFromAllHeights) {
  const Tensor x = Tensor::full({1, 1, 2, 1}, 3, Dtype::float64);
  const Tensor grid = Tensor::from<double>({1, 1, 2, 2}, Numbers{0, std::numeric_limits<double>::infinity(), 0, 7});
  const Tensor y = grid_sample(x, grid, Padding::border, true);
  for (std::int64_t i = 0; i < 2; ++i) EXPECT_EQ(y.at(i), 3);
}

TEST(GridSample, RefusesOtherShapes) {
  const auto text = [](const Shape& x, const Shape& grid) {
    return error_text([&] { grid_sample(Tensor::zeros(x), Tensor::zeros(grid)); });
  };
  EXPECT_EQ(text({2, 3, 4, 5}, {3, 3, 4, 2}),
            "grid_sample: expected images [N,H,W,C] and a grid [N,Ho,Wo,2] of its type or float32 beside bfloat16 (x "
            "[2,3,4,5] float32, grid [3,3,4,2] "
            "float32)");
  EXPECT_EQ(text({2, 0, 4, 5}, {2, 3, 4, 2}), "grid_sample: the images have no pixels (x [2,0,4,5] float32)");
}

}  // namespace
}  // namespace dattn
