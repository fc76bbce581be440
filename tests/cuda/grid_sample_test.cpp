// Bilinear sampling on the device where the table of cases is short: groups with points of their own, images wider than
// what a warp owns, bfloat16 images beside exact gradients, points far outside.
#include "layers/grid_sample.h"

#include <gtest/gtest.h>

#include "core/random.h"
#include "cuda/enable.h"
#include "gradcheck.h"
#include "op_compare.h"

namespace dattn::test {
namespace {

struct Setting {
  Shape image;
  std::int64_t samples, groups;
  GridSampleOptions options;
  Dtype image_type, gradient_type;
};

struct Results {
  Tensor y, dx, dpoints;
};

// Points on and around the image, some of them far outside.
Tensor points_for(const Setting& s) {
  Tensor points = normal({s.image[0], s.samples, s.groups, 2}, 3, 0.7);
  for (std::int64_t i = 0; i < points.elements(); i += 11) points.data<double>()[i] *= 1e6;
  return points.to(Dtype::float32);
}

Results run_on(Device device, const Setting& s, const Tensor& image, const Tensor& gradient, Dtype image_type,
               Dtype gradient_type) {
  const Tensor x = image.to(image_type).to(device), dy = gradient.to(gradient_type).to(device);
  const Tensor points = points_for(s).to(device);
  Results r{Tensor::empty(gradient.shape(), image_type, device), Tensor::like(x),
            Tensor::zeros(points.shape(), Dtype::float32, device)};
  grid_sample_forward(x, points, s.options, r.y);
  grid_sample_backward_x(dy, points, s.options, r.dx);
  grid_sample_backward_points(dy, x, points, s.options, r.dpoints);
  return {r.y.to(Device::cpu), r.dx.to(Device::cpu), r.dpoints.to(Device::cpu)};
}

void expect_near(const Tensor& got, const Tensor& expected, double bound, const char* what) {
  const Tensor a = got.to(Dtype::float64), b = expected.to(Dtype::float64);
  EXPECT_LE(distance(a, b), bound * (1 + largest(b))) << what;
}

void compare(const Setting& s) {
  cuda::enable();
  // What is stored in bfloat16 is rounded first, so that both devices compute from the same numbers.
  const Tensor x = normal(s.image, 1).to(s.image_type).to(Dtype::float32);
  const Tensor dy = normal({s.image[0], s.samples, s.image[3]}, 2).to(s.gradient_type).to(Dtype::float32);
  const Results got = run_on(Device::cuda, s, x, dy, s.image_type, s.gradient_type);
  const Results expected = run_on(Device::cpu, s, x, dy, Dtype::float32, Dtype::float32);
  const double bound = 1e-5, rounded = s.image_type == Dtype::bfloat16 ? 1.0 / 256 : bound;
  expect_near(got.y, expected.y, rounded, "y");
  expect_near(got.dx, expected.dx, rounded, "dx");
  expect_near(got.dpoints, expected.dpoints, bound * static_cast<double>(s.image[1] + s.image[2]), "dpoints");
}

constexpr GridSampleOptions kDAttention{.padding = Padding::zeros, .align_corners = true, .order = PointOrder::yx};

TEST(CudaGridSample, GroupsHaveTheirOwnPoints) {
  compare({{3, 5, 7, 24}, 35, 3, kDAttention, Dtype::float32, Dtype::float32});
}

TEST(CudaGridSample, RowsWiderThanAWarpOwns) {
  compare({{1, 3, 301, 40}, 150, 1, kDAttention, Dtype::float32, Dtype::float32});
  compare({{2, 2, 131, 3}, 70, 3, {.padding = Padding::border}, Dtype::float32, Dtype::float32});
}

TEST(CudaGridSample, MoreChannelsThanAWarpOwns) {
  compare({{1, 2, 3, 2100}, 33, 1, kDAttention, Dtype::float32, Dtype::float32});
}

TEST(CudaGridSample, RoundedImagesAndExactGradients) {
  compare({{2, 6, 5, 16}, 31, 2, kDAttention, Dtype::bfloat16, Dtype::float32});
  compare({{2, 6, 5, 6}, 31, 2, {.padding = Padding::border}, Dtype::bfloat16, Dtype::bfloat16});
}

}  // namespace
}  // namespace dattn::test
