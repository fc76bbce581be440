// Convolution with max pooling: node, and the CPU kernels, which choose between tiles, Winograd's and two steps.
#include "layers/conv2d_max_pool.h"

#include "core/saved.h"
#include "layers/conv2d_bfloat16.h"
#include "layers/linear.h"
#include "layers/pool2d.h"
#include "layers/winograd.h"

namespace dattn {

namespace {

constexpr PoolWindow kWindow{2, 2, 0};

Shape convolved_shape(const Tensor& x, const Tensor& w, const Conv2dOptions& o) {
  return {x.size(0), conv2d_size(x.size(1), w.size(1), o), conv2d_size(x.size(2), w.size(2), o), w.size(0)};
}

// --- node ---

struct Conv2dMaxPool2Node : Node {
  Saved x;
  Tensor taps;
  Parameter weight, bias;
  Conv2dOptions options;

  const char* name() const override { return "conv2d_max_pool2"; }
  void backward(const Tensor& dy) override {
    const Tensor input = x.get();
    Tensor dx, dw;
    if (needs(0)) dx = Tensor::like(input);
    if (weight.trainable()) dw = weight.grad();
    conv2d_max_pool2_backward(dy, taps, input, weight.value(), options, dx, dw);
    if (needs(0)) give(0, std::move(dx));
    if (bias.trainable()) bias_backward(dy, bias.grad());
  }
};

// --- CPU ---

void two_steps_forward(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y,
                       Tensor& taps) {
  // [N,Ho,Wo,O], without rows and columns that no window covers.
  Tensor map = Tensor::empty({y.size(0), 2 * y.size(1), 2 * y.size(2), y.size(3)}, x.dtype());
  conv2d_forward(x, w, b, o, map);
  max_pool2d_forward(map, kWindow, y, taps);
}

// Maxima are of unrounded numbers: rounding would make ties.
void forward_cpu(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y, Tensor& taps) {
  if (conv2d_bfloat16_suits(x, w, o)) return conv2d_bfloat16_pool_forward(x, w, b, y, taps);
  const bool winograd = o.padding == 1 && winograd_suits(w, o, x.shape(), convolved_shape(x, w, o));
  if (winograd) return winograd_pool_forward(x, w, b, y, taps);
  call_in_float32(two_steps_forward, x, w, b, o, y, taps);
}

void backward_cpu(const Tensor& dy, const Tensor& taps, const Tensor& x, const Tensor& w, const Conv2dOptions& o,
                  Tensor& dx, Tensor& dw) {
  if (conv2d_bfloat16_suits(x, w, o)) {
    if (dx) conv2d_bfloat16_pool_backward_data(dy, taps, w, dx);
    if (dw) conv2d_bfloat16_pool_backward_filter(dy, taps, x, dw);
    return;
  }
  const Shape convolved = convolved_shape(x, w, o);
  const bool winograd_data = dx && o.padding == 1 && winograd_suits(w, o, convolved, x.shape());
  const bool winograd_filter = dw && o.padding == 1 && winograd_suits(w, o, x.shape(), convolved);
  if (winograd_data) winograd_pool_backward_data(dy, taps, w, dx);
  if (winograd_filter) winograd_pool_backward_filter(dy, taps, x, dw);
  if ((!dx || winograd_data) && (!dw || winograd_filter)) return;
  Tensor dmap = Tensor::empty(convolved, dy.dtype());  // [N,Ho,Wo,O]
  max_pool2d_backward(dy, taps, kWindow, dmap);
  if (dx && !winograd_data) conv2d_backward_data(dmap, w, o, dx);
  if (dw && !winograd_filter) conv2d_backward_filter(dmap, x, o, dw);
}

}  // namespace

constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Conv2dOptions&, Tensor&, Tensor&)>
    conv2d_max_pool2_forward{"conv2d_max_pool2_forward", forward_cpu, Bfloat16::native};
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Conv2dOptions&, Tensor&,
                      Tensor&)>
    conv2d_max_pool2_backward{"conv2d_max_pool2_backward", backward_cpu, Bfloat16::native};

Tensor conv2d_max_pool2(const Tensor& x, const Conv2d& conv) {
  check_conv2d(x, conv.weight, conv.bias, conv.options);
  const Shape convolved = convolved_shape(x, conv.weight.value(), conv.options);
  check(convolved[1] >= 2 && convolved[2] >= 2, "conv2d_max_pool2: expected a map of at least 2x2 to pool, got {}",
        convolved);
  Tensor y = Tensor::empty({convolved[0], convolved[1] / 2, convolved[2] / 2, convolved[3]}, x.dtype(), x.device());
  Tensor taps = Tensor::empty(y.shape(), Dtype::uint8, x.device());
  conv2d_max_pool2_forward(x, conv.weight.value(), conv.bias ? conv.bias.value() : Tensor(), conv.options, y, taps);
  return record<Conv2dMaxPool2Node>(std::move(y), {x}, {conv.weight, conv.bias}, [&](Conv2dMaxPool2Node& node) {
    node.x = x, node.taps = taps;
    node.weight = conv.weight, node.bias = conv.bias, node.options = conv.options;
  });
}

}  // namespace dattn
