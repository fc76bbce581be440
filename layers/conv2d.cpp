// Convolution: checks, node and module. Its loops are in conv2d_cpu.cpp and depthwise_conv2d_cpu.cpp.
#include "layers/conv2d.h"

#include "core/saved.h"
#include "layers/init.h"
#include "layers/linear.h"

namespace dattn {

namespace {

// A 1x1 convolution is a linear layer on pixels, on every device.
enum class Kind : unsigned char { general, depthwise, linear };

Kind kind_of(const Tensor& w, const Conv2dOptions& o) {
  if (o.groups > 1) return w.size(0) == o.groups && w.size(3) == 1 ? Kind::depthwise : Kind::general;
  return w.size(1) == 1 && w.size(2) == 1 && o.stride == 1 && o.padding == 0 ? Kind::linear : Kind::general;
}

void forward(Kind kind, const Tensor& x, const Tensor& w, const Tensor& b, const Tensor& addend, const Conv2dOptions& o,
             Tensor& y) {
  if (kind == Kind::linear) return linear_forward(x, as_matrix(w), b, y);
  if (kind == Kind::depthwise) return depthwise_conv2d_forward(x, w, b, addend, o, y);
  conv2d_forward(x, w, b, o, y);
}

void backward_data(Kind kind, const Tensor& dy, const Tensor& w, const Conv2dOptions& o, Tensor& dx) {
  if (kind == Kind::linear) return linear_backward_data(dy, as_matrix(w), dx);
  (kind == Kind::depthwise ? depthwise_conv2d_backward_data : conv2d_backward_data)(dy, w, o, dx);
}

void backward_filter(Kind kind, const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw) {
  if (kind == Kind::linear) {
    Tensor matrix = as_matrix(dw);
    return linear_backward_weight(dy, x, matrix);
  }
  (kind == Kind::depthwise ? depthwise_conv2d_backward_filter : conv2d_backward_filter)(dy, x, o, dw);
}

// Products to one output: with few of them a convolution is a sweep.
std::int64_t products(const Tensor& w) { return w.size(1) * w.size(2) * w.size(3); }
constexpr std::int64_t kFewProducts = 16;

struct Conv2dNode : Node {
  Saved x;                                   // only where the filters are trained or the output is recomputed
  Saved addend;                              // only where the output is recomputed
  bool recomputes = false, trained = false;  // the filters, when the operation ran
  Parameter weight, bias;
  Conv2dOptions options;
  Shape x_shape, y_shape;
  Kind kind;

  const char* name() const override { return "conv2d"; }
  void backward(const Tensor& dy) override {
    if (needs(0)) {
      Tensor dx = Tensor::empty(x_shape, dy.dtype(), dy.device());
      backward_data(kind, dy, weight.value(), options, dx);
      give(0, std::move(dx));
    }
    if (trained && weight.trainable()) backward_filter(kind, dy, x.get(), options, weight.grad());
    if (bias.trainable()) bias_backward(dy, bias.grad());
    if (inputs.size() > 1) give(1, dy);  // an addend
  }
  int recompute_sweeps() const override {
    return recomputes ? x.recompute_sweeps() + addend.recompute_sweeps() + 1 : 0;
  }
  Tensor recompute() const override {
    const Tensor input = x.get();
    Tensor y = Tensor::empty(y_shape, input.dtype(), input.device());
    forward(kind, input, weight.value(), bias ? bias.value() : Tensor(), addend.get(), options, y);
    return y;
  }
};

// Whether y is recomputed: by few products, from an x that is kept anyway or is small beside it, and from an addend
// that is recomputed itself.
bool can_recompute(const Tensor& y, const Tensor& x, const Parameter& weight, const Tensor& addend) {
  return worth_recomputing(y) && products(weight.value()) <= kFewProducts &&
         (weight.trainable() || 4 * x.bytes() <= y.bytes()) && (!addend || Saved(addend).recompute_sweeps() > 0);
}

std::string shapes_of(const Tensor& x, const Tensor& w) { return fmt::format("(x {}, w {})", x.shape(), w.shape()); }

void check_options(const Conv2dOptions& o) {
  constexpr std::int64_t kMost = std::int64_t{1} << 20;  // far beyond any image, and sums of sizes do not overflow
  const auto within = [&](const char* name, std::int64_t value, std::int64_t least) {
    check(value >= least, "conv2d: {} must be at least {}, got {}", name, least, value);
    check(value <= kMost, "conv2d: {} must be at most {}, got {}", name, kMost, value);
  };
  within("stride", o.stride, 1);
  within("padding", o.padding, 0);
  within("dilation", o.dilation, 1);
  within("groups", o.groups, 1);
}

void check_image_size(const Tensor& x, const Tensor& w, const Conv2dOptions& o) {
  const std::int64_t span_h = o.dilation * (w.size(1) - 1) + 1, span_w = o.dilation * (w.size(2) - 1) + 1;
  const std::int64_t H = x.size(1) + 2 * o.padding, W = x.size(2) + 2 * o.padding;
  if (H < span_h || W < span_w) {
    fail("conv2d: the kernel spans {}x{} pixels (dilation {}), the image with its padding of {} has {}x{} {}", span_h,
         span_w, o.dilation, o.padding, H, W, shapes_of(x, w));
  }
}

// What the plain and the shared convolution ask alike; `channels` of x go into one application of the filters.
void check_channels(const Tensor& x, const Parameter& weight, const Parameter& bias, const Conv2dOptions& o,
                    std::int64_t channels) {
  const Tensor& w = weight.value();
  if (channels % o.groups != 0 || w.size(0) % o.groups != 0) {
    fail("conv2d: {} input and {} output channels cannot be split into {} groups {}", channels, w.size(0), o.groups,
         shapes_of(x, w));
  }
  if (w.size(3) * o.groups != channels) {
    fail("conv2d: weight expects {} input channels{}, input has {} {}", w.size(3) * o.groups,
         o.groups > 1 ? fmt::format(" ({} groups of {})", o.groups, w.size(3)) : "", channels, shapes_of(x, w));
  }
  if (exact_type(x.dtype()) != w.dtype())
    fail("conv2d: expected x and weight of one type, or bfloat16 with float32 ({}, {})", describe("x", x),
         describe("w", w));
  check_image_size(x, w, o);
  if (!bias) return;
  const Tensor& b = bias.value();
  if (b.shape() != Shape{w.size(0)} || b.dtype() != w.dtype()) {
    fail("conv2d: expected a bias of {} elements like the weight's, got {} {}", w.size(0), describe("b", b),
         shapes_of(x, w));
  }
}

void check_ranks(const Tensor& x, const Parameter& weight) {
  check(x.defined() && weight.defined(), "conv2d: expected an input and a weight, got an undefined one");
  const Tensor& w = weight.value();
  if (x.rank() != 4 || w.rank() != 4) fail("conv2d: expected x [N,H,W,C] and w [O,Kh,Kw,C/groups] {}", shapes_of(x, w));
  if (w.elements() == 0) fail("conv2d: the weight has no elements {}", shapes_of(x, w));
}

Tensor apply(const Tensor& x, const Parameter& weight, const Parameter& bias, const Conv2dOptions& options,
             std::int64_t outputs, Kind kind, const Tensor& addend = {}) {
  const Tensor& w = weight.value();
  Tensor y = Tensor::empty(
      {x.size(0), conv2d_size(x.size(1), w.size(1), options), conv2d_size(x.size(2), w.size(2), options), outputs},
      x.dtype(), x.device());  // y [N,Ho,Wo,O]
  if (addend && (addend.shape() != y.shape() || addend.dtype() != y.dtype())) {
    fail("conv2d: expected an addend {} {}, got {} {}", y.shape(), name(y.dtype()), describe("addend", addend),
         shapes_of(x, w));
  }
  forward(kind, x, w, bias ? bias.value() : Tensor(), addend, options, y);
  const Tensor inputs[] = {x, addend};
  const auto fill = [&, recomputes = can_recompute(y, x, weight, addend), y_shape = y.shape()](Conv2dNode& node) {
    if (weight.trainable() || recomputes) node.x = x;
    if (recomputes && addend) node.addend = addend;
    node.recomputes = recomputes, node.trained = weight.trainable();
    node.weight = weight, node.bias = bias, node.options = options;
    node.x_shape = x.shape(), node.y_shape = y_shape, node.kind = kind;
  };
  const Parameter parameters[] = {weight, bias};
  return record<Conv2dNode>(std::move(y), std::span(inputs, addend ? 2 : 1), std::span(parameters), fill);
}

}  // namespace

std::int64_t conv2d_size(std::int64_t size, std::int64_t kernel, const Conv2dOptions& o) {
  return (size + 2 * o.padding - o.dilation * (kernel - 1) - 1) / o.stride + 1;
}

void check_conv2d(const Tensor& x, const Parameter& weight, const Parameter& bias, const Conv2dOptions& options) {
  check_options(options);
  check_ranks(x, weight);
  check_channels(x, weight, bias, options, x.size(3));
}

Tensor conv2d(const Tensor& x, const Parameter& weight, const Parameter& bias, const Conv2dOptions& options) {
  check_conv2d(x, weight, bias, options);
  return apply(x, weight, bias, options, weight.shape()[0], kind_of(weight.value(), options));
}

Tensor depthwise_conv2d_shared(const Tensor& x, const Parameter& weight, const Parameter& bias,
                               const Conv2dOptions& options, std::int64_t groups) {
  check_options(options);
  check_ranks(x, weight);
  const Tensor& w = weight.value();
  const std::int64_t C = w.size(0);
  if (w.size(3) != 1 || options.groups != C) {
    fail("conv2d: a shared depthwise filter bank is w [C,Kh,Kw,1] with C groups, got {} groups {}", options.groups,
         shapes_of(x, w));
  }
  if (groups < 1 || x.size(3) != groups * C) {
    fail("conv2d: {} filters shared by {} groups expect {} input channels, input has {} {}", C, groups, groups * C,
         x.size(3), shapes_of(x, w));
  }
  check_channels(x, weight, bias, options, C);
  return apply(x, weight, bias, options, x.size(3), Kind::depthwise);
}

Tensor depthwise_conv2d_add(const Tensor& addend, const Tensor& x, const Parameter& weight, const Parameter& bias,
                            const Conv2dOptions& options) {
  check_conv2d(x, weight, bias, options);
  check(addend.defined(), "conv2d: expected an addend, got an undefined one");
  if (options.groups != weight.shape()[0] || weight.shape()[3] != 1) {
    fail("conv2d: expected a depthwise convolution to add, got {} groups {}", options.groups,
         shapes_of(x, weight.value()));
  }
  return apply(x, weight, bias, options, x.size(3), Kind::depthwise, addend);
}

Conv2d::Conv2d(std::int64_t in, std::int64_t out, std::int64_t kernel, const Conv2dOptions& o, bool with_bias,
               Random& random)
    : options(o) {
  check_options(o);
  check(in >= 1 && out >= 1 && kernel >= 1,
        "conv2d: expected at least 1 input channel, 1 output channel and a kernel of 1, got {}, {} and {}", in, out,
        kernel);
  check(in % o.groups == 0 && out % o.groups == 0,
        "conv2d: {} input and {} output channels cannot be split into {} groups", in, out, o.groups);
  weight = Parameter(init::default_weight({out, kernel, kernel, in / o.groups}, random), Role::matrix);
  if (with_bias) bias = Parameter(init::default_bias(weight.shape(), random), Role::vector);
}

void Conv2d::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
}

}  // namespace dattn
