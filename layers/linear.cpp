// Linear layer: checks, node and module. Its loops are in linear_cpu.cpp.
#include "layers/linear.h"

#include "core/saved.h"
#include "layers/init.h"

namespace dattn {

namespace {

struct LinearNode : Node {
  Saved x;               // only where the weight is trained
  bool trained = false;  // the weight, when the operation ran
  Parameter weight, bias;
  Shape x_shape;

  const char* name() const override { return "linear"; }
  void backward(const Tensor& dy) override {
    if (needs(0)) {
      Tensor dx = Tensor::empty(x_shape, dy.dtype(), dy.device());
      linear_backward_data(dy, weight.value(), dx);
      give(0, std::move(dx));
    }
    if (trained && weight.trainable()) linear_backward_weight(dy, x.get(), weight.grad());
    if (bias.trainable()) bias_backward(dy, bias.grad());
  }
};

void check_linear(const Tensor& x, const Parameter& weight, const Parameter& bias) {
  check(x.defined() && weight.defined(), "linear: expected an input and a weight, got an undefined one");
  const Tensor& w = weight.value();
  const auto shapes = [&] { return fmt::format("({}, {})", describe("x", x), describe("w", w)); };
  if (x.rank() < 1 || w.rank() != 2) fail("linear: expected x [..., in] and weight [out, in] {}", shapes());
  if (w.elements() == 0) fail("linear: the weight has no elements {}", shapes());
  if (x.size(-1) != w.size(1)) fail("linear: weight expects {} inputs, x has {} {}", w.size(1), x.size(-1), shapes());
  if (exact_type(x.dtype()) != w.dtype())
    fail("linear: expected x and weight of one type, or bfloat16 with float32 {}", shapes());
  if (!bias) return;
  const Tensor& b = bias.value();
  if (b.shape() != Shape{w.size(0)} || b.dtype() != w.dtype()) {
    fail("linear: expected a bias of {} elements like the weight's, got {} {}", w.size(0), describe("b", b), shapes());
  }
}

}  // namespace

Tensor linear(const Tensor& x, const Parameter& weight, const Parameter& bias) {
  check_linear(x, weight, bias);
  Tensor y = Tensor::empty(x.shape().with(-1, weight.shape()[0]), x.dtype(), x.device());  // y [..., out]
  linear_forward(x, weight.value(), bias ? bias.value() : Tensor(), y);
  return record<LinearNode>(std::move(y), {x}, {weight, bias}, [&](LinearNode& node) {
    node.trained = weight.trainable();
    if (node.trained) node.x = x;
    node.weight = weight, node.bias = bias, node.x_shape = x.shape();
  });
}

Tensor as_matrix(const Tensor& filters) { return filters.view({filters.size(0), filters.size(-1)}); }

Linear::Linear(std::int64_t in, std::int64_t out, bool with_bias, Random& random) {
  check(in >= 1 && out >= 1, "linear: expected at least 1 input and 1 output, got {} and {}", in, out);
  weight = Parameter(init::default_weight({out, in}, random), Role::matrix);
  if (with_bias) bias = Parameter(init::default_bias(weight.shape(), random), Role::vector);
}

void Linear::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
}

}  // namespace dattn
