// Bilinear sampling: checks and node.
#include "layers/grid_sample.h"

namespace dattn {

namespace {
struct GridSampleNode : Node {
  Tensor x, points;  // x only where the points want a gradient; [N, Ho*Wo, 1, 2]
  Shape x_shape, grid_shape;
  GridSampleOptions options;
  const char* name() const override { return "grid_sample"; }
  void backward(const Tensor& dy) override {
    if (needs(0)) {
      Tensor dx = Tensor::empty(x_shape, dy.dtype(), dy.device());
      grid_sample_backward_x(dy, points, options, dx);
      give(0, std::move(dx));
    }
    if (needs(1)) {
      Tensor dpoints = Tensor::zeros(points.shape(), points.dtype(), points.device());
      grid_sample_backward_points(dy, x, points, options, dpoints);
      give(1, dpoints.view(grid_shape));
    }
  }
};
}  // namespace

Tensor grid_sample(const Tensor& x, const Tensor& grid, Padding padding, bool align_corners) {
  check(x.rank() == 4 && grid.rank() == 4 && grid.size(3) == 2 && grid.size(0) == x.size(0) &&
            exact_type(x.dtype()) == grid.dtype(),
        "grid_sample: expected images [N,H,W,C] and a grid [N,Ho,Wo,2] of its type or float32 beside bfloat16 ({}, {})",
        describe("x", x), describe("grid", grid));
  check(x.size(1) > 0 && x.size(2) > 0, "grid_sample: the images have no pixels ({})", describe("x", x));
  const GridSampleOptions options{padding, align_corners, PointOrder::xy};
  const Tensor points = grid.view({grid.size(0), grid.size(1) * grid.size(2), 1, 2});
  Tensor y = Tensor::empty(grid.shape().with(3, x.size(3)), x.dtype(), x.device());
  grid_sample_forward(x, points, options, y);
  return record<GridSampleNode>(std::move(y), {x, grid}, {}, [&](GridSampleNode& node) {
    if (grid.needs_grad()) node.x = x.detach();
    node.points = points;
    node.x_shape = x.shape(), node.grid_shape = grid.shape();
    node.options = options;
  });
}

}  // namespace dattn
