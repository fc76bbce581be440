// Cases of layers/grid_sample.
#include "layers/grid_sample.h"
#include "op_cases.h"

namespace dattn::test {

namespace {

// Points [N,Ho,Wo,2] away from the lines between pixels, where the gradient jumps; about a third lies outside of the
// image.
Tensor points_off_lines(const Shape& image, std::int64_t rows, std::int64_t columns, bool align_corners) {
  const Random random(42, Purpose::test, 1);
  Tensor points = Tensor::empty({image[0], rows, columns, 2}, Dtype::float64);
  for (std::int64_t i = 0; i < points.elements(); ++i) {
    const auto place = static_cast<std::uint64_t>(2 * i);
    const std::int64_t size = image[i % 2 == 0 ? 2 : 1];
    const double cell = static_cast<double>(random.below(place, static_cast<std::uint64_t>(size + 3))) - 2;
    const double pixel = cell + 0.2 + 0.6 * static_cast<double>(random.uniform(place + 1));
    const double n = static_cast<double>(size);
    points.data<double>()[i] = align_corners ? 2 * pixel / (n - 1) - 1 : (2 * pixel + 1) / n - 1;
  }
  return points;
}

OpCase sampling(const char* name, const Shape& image, std::int64_t rows, std::int64_t columns, Padding padding,
                bool align_corners) {
  return {name,
          [=] {
            return OpInstance{
                {{"x", normal(image, 1)}, {"grid", points_off_lines(image, rows, columns, align_corners), true}},
                {},
                [=](std::span<const Tensor> in) { return grid_sample(in[0], in[1], padding, align_corners); },
                {}};
          },
          4 * image[3] + rows * columns};
}

}  // namespace

std::vector<OpCase> sample_cases() {
  return {
      sampling("grid_sample_zeros", {2, 5, 7, 3}, 4, 5, Padding::zeros, false),
      sampling("grid_sample_zeros_corners", {2, 5, 7, 17}, 5, 3, Padding::zeros, true),
      sampling("grid_sample_border", {2, 7, 5, 3}, 3, 7, Padding::border, false),
      sampling("grid_sample_border_corners", {2, 4, 5, 9}, 3, 7, Padding::border, true),
      sampling("grid_sample_one_pixel", {3, 1, 1, 5}, 3, 2, Padding::zeros, false),
      sampling("grid_sample_one_row", {1, 1, 9, 1}, 1, 5, Padding::border, false),
      sampling("grid_sample_many_images", {19, 3, 2, 4}, 3, 2, Padding::zeros, true),
  };
}

}  // namespace dattn::test
