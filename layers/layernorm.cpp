// LayerNorm: checks, node and module. Its loops are in layernorm_cpu.cpp.
#include "layers/layernorm.h"

#include "core/saved.h"
#include "layers/norm_checks.h"

namespace dattn {

namespace {

Tensor normalised(const Tensor& x, const Parameter& weight, const Parameter& bias, double eps) {
  Tensor y = Tensor::like(x);
  layernorm_forward(x, weight.value(), bias.value(), eps, y);
  return y;
}

struct LayerNormNode : Node {
  Saved x;
  Parameter weight, bias;
  double eps = 0;
  const char* name() const override { return "layernorm"; }
  void backward(const Tensor& dy) override {
    Tensor dx, dw, db;
    if (needs(0)) dx = Tensor::like(dy);
    if (weight.trainable()) dw = weight.grad();
    if (bias.trainable()) db = bias.grad();
    layernorm_backward(dy, x.get(), weight.value(), eps, dx, dw, db);
    if (dx) give(0, std::move(dx));
  }
  int recompute_sweeps() const override { return x.recompute_sweeps() + 1; }
  Tensor recompute() const override { return normalised(x.get(), weight, bias, eps); }
};

}  // namespace

Tensor layernorm(const Tensor& x, const Parameter& weight, const Parameter& bias, double eps) {
  check(x.rank() >= 1, "layernorm: expected at least one dimension, got {}", describe("x", x));
  check_norm("layernorm", x, weight, bias, eps);
  return record<LayerNormNode>(normalised(x, weight, bias, eps), {x}, {weight, bias}, [&](LayerNormNode& node) {
    node.x = x;
    node.weight = weight;
    node.bias = bias;
    node.eps = eps;
  });
}

LayerNorm::LayerNorm(std::int64_t channels, double eps_) : eps(eps_) {
  check(channels >= 1, "layernorm: expected at least 1 channel, got {}", channels);
  weight = Parameter(Tensor::full({channels}, 1), Role::vector);
  bias = Parameter(Tensor::zeros({channels}), Role::vector);
}

void LayerNorm::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
}

}  // namespace dattn
