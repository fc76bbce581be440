// BatchNorm with GELU: the node. Its loops are in batchnorm_gelu_cpu.cpp.
#include "layers/batchnorm_gelu.h"

#include "core/ops.h"

namespace dattn {

namespace {

struct BatchNormGeluNode : Node {
  Tensor x, mean, var;  // x [...,C], the rest [C]
  Parameter weight, bias;
  double eps = 0;
  bool training = true;

  const char* name() const override { return "batchnorm_gelu"; }
  void backward(const Tensor& dy) override {
    Tensor sum_dz, sum_dz_xhat;  // [C]
    if (training || weight.trainable() || bias.trainable()) {
      sum_dz = Tensor::like(mean), sum_dz_xhat = Tensor::like(mean);
      batchnorm_gelu_backward_sums(dy, x, mean, var, weight.value(), bias.value(), eps, sum_dz, sum_dz_xhat);
      if (bias.trainable()) add_forward(bias.grad(), sum_dz, bias.grad());
      if (weight.trainable()) add_forward(weight.grad(), sum_dz_xhat, weight.grad());
    }
    if (!needs(0)) return;
    if (!training) sum_dz = Tensor(), sum_dz_xhat = Tensor();
    Tensor dx = Tensor::like(dy);
    batchnorm_gelu_backward(dy, x, mean, var, weight.value(), bias.value(), eps, sum_dz, sum_dz_xhat, dx);
    give(0, std::move(dx));
  }
};

}  // namespace

Tensor batchnorm_gelu(const Tensor& x, BatchNorm2d& norm) {
  const auto [mean, var] = norm.moments(x);
  Tensor y = Tensor::like(x);
  batchnorm_gelu_forward(x, mean, var, norm.weight.value(), norm.bias.value(), norm.options.eps, y);
  return record<BatchNormGeluNode>(std::move(y), {x}, {norm.weight, norm.bias},
                                   [&, &mean = mean, &var = var](BatchNormGeluNode& node) {
                                     node.x = x.detach(), node.mean = mean, node.var = var;
                                     node.weight = norm.weight, node.bias = norm.bias;
                                     node.eps = norm.options.eps, node.training = norm.training;
                                   });
}

}  // namespace dattn
