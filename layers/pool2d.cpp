// Pooling: checks and nodes. The loops are in pool2d_cpu.cpp.
#include "layers/pool2d.h"

namespace dattn {

namespace {

// The shape of the output, after all checks.
Shape pooled_shape(const char* operation, const Tensor& x, const PoolWindow& window) {
  const auto [kernel, stride, padding] = window;
  check(x.rank() == 4, "{}: expected images [N,H,W,C], got {}", operation, describe("x", x));
  check(kernel >= 1 && stride >= 1, "{}: expected a kernel and a stride of at least 1, got kernel {}, stride {}",
        operation, kernel, stride);
  check(padding >= 0 && padding <= kernel / 2, "{}: expected padding between 0 and half of kernel {}, got {}",
        operation, kernel, padding);
  const std::int64_t H = x.size(1) + 2 * padding, W = x.size(2) + 2 * padding;
  check(kernel <= H && kernel <= W, "{}: kernel {} is larger than the padded image {}x{} (padding {}, {})", operation,
        kernel, H, W, padding, describe("x", x));
  return {x.size(0), (H - kernel) / stride + 1, (W - kernel) / stride + 1, x.size(3)};
}

// --- max ---

struct MaxPool2dNode : Node {
  Tensor taps;
  Shape before;
  PoolWindow window;
  const char* name() const override { return "max_pool2d"; }
  void backward(const Tensor& dy) override {
    if (!needs(0)) return;
    Tensor dx = Tensor::empty(before, dy.dtype(), dy.device());
    max_pool2d_backward(dy, taps, window, dx);
    give(0, std::move(dx));
  }
};

}  // namespace

Tensor max_pool2d(const Tensor& x, std::int64_t kernel, std::optional<std::int64_t> stride, std::int64_t padding) {
  const PoolWindow window{kernel, stride.value_or(kernel), padding};
  Tensor y = Tensor::empty(pooled_shape("max_pool2d", x, window), x.dtype(), x.device()), taps;
  if (recording() && x.needs_grad())
    taps = Tensor::empty(y.shape(), kernel <= 16 ? Dtype::uint8 : Dtype::int32, x.device());
  max_pool2d_forward(x, window, y, taps);
  return record<MaxPool2dNode>(std::move(y), {x}, {}, [&](MaxPool2dNode& node) {
    node.taps = taps;
    node.before = x.shape();
    node.window = window;
  });
}

// --- average ---

namespace {
struct AvgPool2dNode : Node {
  Shape before;
  PoolWindow window;
  const char* name() const override { return "avg_pool2d"; }
  void backward(const Tensor& dy) override {
    if (!needs(0)) return;
    Tensor dx = Tensor::empty(before, dy.dtype(), dy.device());
    avg_pool2d_backward(dy, window, dx);
    give(0, std::move(dx));
  }
};
}  // namespace

Tensor avg_pool2d(const Tensor& x, std::int64_t kernel, std::optional<std::int64_t> stride, std::int64_t padding) {
  const PoolWindow window{kernel, stride.value_or(kernel), padding};
  Tensor y = Tensor::empty(pooled_shape("avg_pool2d", x, window), x.dtype(), x.device());
  avg_pool2d_forward(x, window, y);
  return record<AvgPool2dNode>(std::move(y), {x}, {}, [&](AvgPool2dNode& node) {
    node.before = x.shape();
    node.window = window;
  });
}

// --- global average ---

namespace {
struct GlobalAvgPoolNode : Node {
  Shape before;
  const char* name() const override { return "global_avg_pool"; }
  void backward(const Tensor& dy) override {
    if (!needs(0)) return;
    Tensor dx = Tensor::empty(before, dy.dtype(), dy.device());
    global_avg_pool_backward(dy, dx);
    give(0, std::move(dx));
  }
};
}  // namespace

Tensor global_avg_pool(const Tensor& x) {
  check(x.rank() == 4 && x.size(1) * x.size(2) > 0,
        "global_avg_pool: expected images [N,H,W,C] of at least one pixel, got {}", describe("x", x));
  Tensor y = Tensor::empty({x.size(0), x.size(3)}, x.dtype(), x.device());
  global_avg_pool_forward(x, y);
  return record<GlobalAvgPoolNode>(std::move(y), {x}, {}, [&](GlobalAvgPoolNode& node) { node.before = x.shape(); });
}

}  // namespace dattn
