// BatchNorm with GELU: the node. Its loops are in batchnorm_gelu_cpu.cpp.
#include "layers/batchnorm_gelu.h"

#include "core/ops.h"
#include "core/saved.h"

namespace dattn {

namespace {

Tensor forward(const Tensor& x, const Tensor& mean, const Tensor& var, const Parameter& weight, const Parameter& bias,
               double eps) {
  Tensor y = Tensor::like(x);
  batchnorm_gelu_forward(x, mean, var, weight.value(), bias.value(), eps, y);
  return y;
}

struct BatchNormGeluNode : Node {
  Saved x;           // [...,C]
  Tensor mean, var;  // [C]
  Parameter weight, bias;
  double eps = 0;
  bool training = true;

  const char* name() const override { return "batchnorm_gelu"; }
  void backward(const Tensor& dy) override {
    const Tensor input = x.get();
    Tensor sum_dz, sum_dz_xhat;  // [C]
    if (training || weight.trainable() || bias.trainable()) {
      sum_dz = Tensor::like(mean), sum_dz_xhat = Tensor::like(mean);
      batchnorm_gelu_backward_sums(dy, input, mean, var, weight.value(), bias.value(), eps, sum_dz, sum_dz_xhat);
      if (bias.trainable()) add_forward(bias.grad(), sum_dz, bias.grad());
      if (weight.trainable()) add_forward(weight.grad(), sum_dz_xhat, weight.grad());
    }
    if (!needs(0)) return;
    if (!training) sum_dz = Tensor(), sum_dz_xhat = Tensor();
    Tensor dx = Tensor::like(dy);
    batchnorm_gelu_backward(dy, input, mean, var, weight.value(), bias.value(), eps, sum_dz, sum_dz_xhat, dx);
    give(0, std::move(dx));
  }
  int recompute_sweeps() const override { return x.recompute_sweeps() + 1; }
  Tensor recompute() const override { return forward(x.get(), mean, var, weight, bias, eps); }
};

}  // namespace

Tensor batchnorm_gelu(const Tensor& x, BatchNorm2d& norm) {
  const auto [mean, var] = norm.moments(x);
  Tensor y = forward(x, mean, var, norm.weight, norm.bias, norm.options.eps);
  return record<BatchNormGeluNode>(std::move(y), {x}, {norm.weight, norm.bias},
                                   [&, &mean = mean, &var = var](BatchNormGeluNode& node) {
                                     node.x = x, node.mean = mean, node.var = var;
                                     node.weight = norm.weight, node.bias = norm.bias;
                                     node.eps = norm.options.eps, node.training = norm.training;
                                   });
}

}  // namespace dattn
