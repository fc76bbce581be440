// Every step of docs/dattention.md as its own operation; broadcasts are products with ones.
#include "dattention_reference.h"

#include <cmath>

#include "core/ops.h"
#include "layers/activation.h"
#include "layers/grid_sample.h"

namespace dattn::test {

namespace {

// y = f(x) element by element, with f's derivative: for the steps that the library has no operation for.
struct MapNode : Node {
  Tensor slope;
  const char* name() const override { return "map"; }
  void backward(const Tensor& dy) override { give(0, mul(dy, slope)); }
};

template <typename F, typename D>
Tensor map(const Tensor& x, F f, D derivative) {
  Tensor y = Tensor::like(x), slope = Tensor::like(x);
  for (std::int64_t i = 0; i < x.elements(); ++i) {
    y.data<double>()[i] = f(x.at(i));
    slope.data<double>()[i] = derivative(x.at(i));
  }
  return record<MapNode>(y, {x}, {}, [&](MapNode& node) { node.slope = slope; });
}

Tensor ones(const Shape& shape) { return Tensor::full(shape, 1, Dtype::float64); }

// [..., n] to [rows, ..., n], every row the same.
Tensor repeat(const Tensor& x, std::int64_t rows) {
  return matmul(ones({rows, 1}), reshape(x, {1, x.elements()}));  // [rows, elements]
}

// x [rows, in] W^T + b.
Tensor project(const Tensor& x, const Tensor& w, const Tensor& b) {
  return add(matmul(x, w, Trans::no, Trans::yes), repeat(b, x.size(0)));
}

// Constant points [Hk,Wk,G,2] for every image.
template <typename F>
Tensor constants(const Shape& shape, F f) {
  Tensor y = Tensor::empty(shape, Dtype::float64);
  const std::int64_t groups = shape[3];
  for (std::int64_t i = 0; i < y.elements(); ++i) {
    const std::int64_t sample = i / 2 / groups % (shape[1] * shape[2]);
    y.data<double>()[i] = i % 2 == 0 ? f(sample / shape[2], shape[1]) : f(sample % shape[2], shape[2]);
  }
  return y;
}

// (2)
Tensor positions(const Tensor& offsets, double factor) {
  const Tensor reference = constants(offsets.shape(), dattention_reference_point);
  if (factor < 0) {
    return map(
        add(offsets, reference), [](double p) { return std::min(1.0, std::max(-1.0, p)); },
        [](double p) { return p >= -1 && p <= 1 ? 1.0 : 0.0; });
  }
  const Tensor range = constants(offsets.shape(), [&](std::int64_t, std::int64_t n) {
    return factor / static_cast<double>(std::max<std::int64_t>(n - 1, 1));
  });
  return add(mul(tanh_(offsets), range), reference);
}

// Points [B, ..., 2] as (y, x) to (x, y).
Tensor swap_axes(const Tensor& points) {
  const Tensor swap = Tensor::from<double>({2, 2}, std::vector<double>{0, 1, 1, 0});
  return reshape(matmul(reshape(points, {points.elements() / 2, 2}), swap), points.shape());
}

// [N,H,W,C] to [N*parts, H, W, C/parts].
Tensor split_channels(const Tensor& x, std::int64_t parts) {
  const std::int64_t n = x.size(0), h = x.size(1), w = x.size(2), c = x.size(3) / parts;
  return reshape(permute(reshape(x, {n, h, w, parts, c}), {0, 3, 1, 2, 4}), {n * parts, h, w, c});
}

// [rows, C] of N images to [N, M, rows/N, C/M].
Tensor split_heads(const Tensor& x, std::int64_t images, std::int64_t heads) {
  const std::int64_t rows = x.size(0) / images, c = x.size(1) / heads;
  return permute(reshape(x, {images, rows, heads, c}), {0, 2, 1, 3});
}

// Query coordinate less position (10): [N*G, H*W, K, 2] as (y, x), of points [N*G, K, 2].
Tensor displacements(const Tensor& points, std::int64_t height, std::int64_t width) {
  const std::int64_t planes = points.size(0), samples = points.size(1), queries = height * width;
  Tensor grid = Tensor::empty({planes, queries, samples, 2}, Dtype::float64);
  for (std::int64_t i = 0; i < grid.elements(); ++i) {
    const std::int64_t query = i / 2 / samples % queries;
    grid.data<double>()[i] = i % 2 == 0 ? dattention_query_coordinate(query / width, height)
                                        : dattention_query_coordinate(query % width, width);
  }
  const Tensor row = reshape(points, {planes, 1, samples * 2});
  const Tensor all = matmul(ones({planes, queries, 1}), scale(row, -1));
  return add(reshape(all, grid.shape()), grid);
}

// [N*G, H*W, K, M/G] to [N, M, H*W, K].
Tensor heads_first(const Tensor& bias, std::int64_t images) {
  const Tensor y = permute(bias, {0, 3, 1, 2});
  return reshape(y, {images, y.size(0) * y.size(1) / images, y.size(2), y.size(3)});
}

// (12), by sampling the table.
Tensor table_bias(const DAttentionInputs& in, const Tensor& delta) {
  const std::int64_t images = in.x.size(0), groups = in.offsets.size(3), rows = in.table.size(1),
                     columns = in.table.size(2);
  const std::int64_t per_group = in.heads / groups;
  const Tensor by_group = permute(reshape(in.table, {groups, per_group, rows, columns}), {0, 2, 3, 1});
  const Tensor tables = reshape(repeat(by_group, images), {images * groups, rows, columns, per_group});
  return heads_first(grid_sample(tables, swap_axes(scale(delta, 0.5)), Padding::zeros, true), images);
}

// (14)
Tensor log_cpb_bias(const DAttentionInputs& in, const Tensor& delta) {
  const Tensor f = map(
      scale(delta, 4), [](double z) { return std::copysign(std::log2(1 + std::abs(z)) / 3, z); },
      [](double z) { return 1 / (3 * std::log(2.0) * (1 + std::abs(z))); });
  const Tensor hidden = relu(project(reshape(f, {f.elements() / 2, 2}), in.w1, in.b1));
  const Tensor bias = matmul(hidden, in.w2, Trans::no, Trans::yes);
  return heads_first(reshape(bias, {delta.size(0), delta.size(1), delta.size(2), bias.size(1)}), in.x.size(0));
}

Tensor mask_tensor(const DropoutMask& mask, std::int64_t images, std::int64_t heads, std::int64_t queries,
                   std::int64_t samples) {
  Tensor y = Tensor::empty({images, heads, samples, queries}, Dtype::float64);
  for (std::int64_t i = 0; i < y.elements(); ++i) y.data<double>()[i] = mask.factor(static_cast<std::uint64_t>(i));
  return permute(y, {0, 1, 3, 2});
}

}  // namespace

Tensor dattention_reference(const DAttentionInputs& in) {
  const std::int64_t images = in.q.size(0), height = in.q.size(1), width = in.q.size(2), channels = in.q.size(3);
  Tensor sampled = in.x, delta;
  if (in.offsets.defined()) {
    const std::int64_t groups = in.offsets.size(3), hk = in.offsets.size(1), wk = in.offsets.size(2);
    const Tensor p = permute(positions(in.offsets, in.factor), {0, 3, 1, 2, 4});
    const Tensor points = reshape(p, {images * groups, hk, wk, 2});
    const Tensor s = grid_sample(split_channels(in.x, groups), swap_axes(points), Padding::zeros, true);  // (4)
    sampled = permute(reshape(s, {images, groups, hk, wk, channels / groups}), {0, 2, 3, 1, 4});
    delta = displacements(reshape(points, {images * groups, hk * wk, 2}), height, width);
  }
  const Tensor rows = reshape(sampled, {sampled.elements() / channels, channels});
  const Tensor k = split_heads(project(rows, in.wk, in.bk), images, in.heads);  // (5)
  const Tensor v = split_heads(project(rows, in.wv, in.bv), images, in.heads);
  const Tensor q = split_heads(reshape(in.q, {images * height * width, channels}), images, in.heads);
  Tensor scores =
      scale(matmul(q, k, Trans::no, Trans::yes), 1 / std::sqrt(static_cast<double>(channels / in.heads)));  // (6)
  if (in.kind == BiasKind::table) scores = add(scores, table_bias(in, delta));
  if (in.kind == BiasKind::log_cpb) scores = add(scores, log_cpb_bias(in, delta));
  if (in.kind == BiasKind::fixed) scores = add(scores, reshape(repeat(in.table, images), scores.shape()));
  Tensor weights = softmax(scores);  // (7)
  if (in.mask.drops()) weights = mul(weights, mask_tensor(in.mask, images, in.heads, height * width, k.size(2)));
  return reshape(permute(matmul(weights, v), {0, 2, 1, 3}), {images, height, width, channels});  // (9)
}

}  // namespace dattn::test
