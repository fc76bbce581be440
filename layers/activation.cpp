// Activations and softmax: checks and nodes. Their loops are in activation_cpu.cpp.
#include "layers/activation.h"

#include "core/saved.h"

namespace dattn {

// --- element by element ---

namespace {

Tensor activated(Activation kind, const Tensor& x) {
  Tensor y = Tensor::like(x);
  activation_forward(kind, x, y);
  return y;
}

struct ActivationNode : Node {
  Activation kind;
  Saved saved;  // y or x
  const char* name() const override { return dattn::name(kind); }
  void backward(const Tensor& dy) override {
    Tensor dx = Tensor::like(dy);
    activation_backward(kind, dy, saved.get(), dx);
    give(0, std::move(dx));
  }
  int recompute_sweeps() const override { return saves_output(kind) ? 0 : saved.recompute_sweeps() + 1; }
  Tensor recompute() const override { return activated(kind, saved.get()); }
};

Tensor activate(Activation kind, const Tensor& x) {
  const Tensor y = activated(kind, x);
  return record<ActivationNode>(y, {x}, {}, [&](ActivationNode& node) {
    node.kind = kind;
    node.saved = saves_output(kind) ? y : x;
  });
}

}  // namespace

Tensor relu(const Tensor& x) { return activate(Activation::relu, x); }
Tensor gelu(const Tensor& x, GeluKind kind) {
  return activate(kind == GeluKind::erf ? Activation::gelu_erf : Activation::gelu_tanh, x);
}
Tensor silu(const Tensor& x) { return activate(Activation::silu, x); }
Tensor sigmoid(const Tensor& x) { return activate(Activation::sigmoid, x); }
Tensor tanh_(const Tensor& x) { return activate(Activation::tanh, x); }

// --- softmax ---

namespace {

struct SoftmaxNode : Node {
  Tensor y;
  const char* name() const override { return "softmax"; }
  void backward(const Tensor& dy) override {
    Tensor dx = Tensor::like(dy);
    softmax_backward(dy, y, dx);
    give(0, std::move(dx));
  }
};

}  // namespace

Tensor softmax(const Tensor& x) {
  check(x.rank() > 0, "softmax: expected a tensor with a last dimension, got {}", describe("x", x));
  Tensor y = Tensor::like(x);
  softmax_forward(x, y);
  return record<SoftmaxNode>(y, {x}, {}, [&](SoftmaxNode& node) { node.y = y.detach(); });
}

}  // namespace dattn
