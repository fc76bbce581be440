// BatchNorm: checks, nodes and the module. Its loops are in batchnorm_cpu.cpp.
#include "layers/batchnorm.h"

#include "core/ops.h"
#include "core/saved.h"

namespace dattn {

namespace {

Tensor forward(const Tensor& x, const Tensor& mean, const Tensor& var, const Parameter& weight, const Parameter& bias,
               double eps) {
  Tensor y = Tensor::like(x);
  batchnorm_forward(x, mean, var, weight.value(), bias.value(), eps, y);
  return y;
}

// What both nodes keep.
struct BatchNormNode : Node {
  Saved x;
  Tensor mean, var;  // [C]
  Parameter weight, bias;
  double eps = 0;

  int recompute_sweeps() const override { return x.recompute_sweeps() + 1; }
  Tensor recompute() const override { return forward(x.get(), mean, var, weight, bias, eps); }

  // Adds the gradients of the parameters from the sums over the batch.
  void add_parameter_gradients(const Tensor& sum_dy, const Tensor& sum_dy_xhat) {
    if (bias.trainable()) add_forward(bias.grad(), sum_dy, bias.grad());
    if (weight.trainable()) add_forward(weight.grad(), sum_dy_xhat, weight.grad());
  }
};

struct BatchNormTrainingNode : BatchNormNode {
  const char* name() const override { return "batchnorm2d"; }
  void backward(const Tensor& dy) override {
    const Tensor input = x.get();
    Tensor sum_dy = Tensor::like(mean), sum_dy_xhat = Tensor::like(mean);  // [C]
    batchnorm_backward_sums(dy, input, mean, var, eps, sum_dy, sum_dy_xhat);
    add_parameter_gradients(sum_dy, sum_dy_xhat);
    if (!needs(0)) return;
    Tensor dx = Tensor::like(dy);
    batchnorm_backward(dy, input, mean, var, weight.value(), eps, sum_dy, sum_dy_xhat, dx);
    give(0, std::move(dx));
  }
};

struct BatchNormEvaluationNode : BatchNormNode {
  const char* name() const override { return "batchnorm2d (evaluation)"; }
  void backward(const Tensor& dy) override {
    if (bias.trainable() || weight.trainable()) {
      Tensor sum_dy = Tensor::like(mean), sum_dy_xhat;  // [C]
      if (weight.trainable()) sum_dy_xhat = Tensor::like(mean);
      batchnorm_backward_sums(dy, x.get(), mean, var, eps, sum_dy, sum_dy_xhat);
      add_parameter_gradients(sum_dy, sum_dy_xhat);
    }
    if (!needs(0)) return;
    Tensor dx = Tensor::like(dy);
    batchnorm_backward_fixed(dy, var, weight.value(), eps, dx);
    give(0, std::move(dx));
  }
};

void check_input(const BatchNorm2d& norm, const Tensor& x) {
  const std::int64_t channels = norm.weight.shape()[0];
  check(x.rank() == 2 || x.rank() == 4, "batchnorm2d: expected images [N,H,W,{0}] or rows [rows,{0}], got {1}",
        channels, describe("x", x));
  check(x.size(-1) == channels, "batchnorm2d: expected {} channels, input has {} ({})", channels, x.size(-1),
        describe("x", x));
  check(exact_type(x.dtype()) == norm.weight.value().dtype(),
        "batchnorm2d: expected an input of its parameters' type {} or bfloat16 beside float32, got {}\nhint: "
        "convert(module, dtype) or x.to(dtype)",
        name(norm.weight.value().dtype()), describe("x", x));
  check(!norm.training || x.shape().rows() > 1,
        "batchnorm2d: training expects more than 1 value for each channel, got {} ({})\nhint: a larger batch, or "
        "set_training(module, false)",
        x.shape().rows(), describe("x", x));
}

}  // namespace

BatchNorm2d::BatchNorm2d(std::int64_t channels, const BatchNormOptions& o) : options(o) {
  check(channels >= 1, "batchnorm2d: expected at least 1 channel, got {}", channels);
  check(o.eps >= 0, "batchnorm2d: expected eps of at least 0, got {}", o.eps);
  check(o.momentum >= 0 && o.momentum <= 1, "batchnorm2d: expected a momentum between 0 and 1, got {}", o.momentum);
  weight = Parameter(Tensor::full({channels}, 1), o.frozen_scale ? Role::frozen : Role::vector);
  bias = Parameter(Tensor::zeros({channels}), Role::vector);
  running_mean = Tensor::zeros({channels});
  running_var = Tensor::full({channels}, 1);
  num_batches_tracked = Tensor::zeros({}, Dtype::int64);
}

BatchNorm2d::Moments BatchNorm2d::moments(const Tensor& x) {
  check_input(*this, x);
  // The running statistics may move on before backward.
  if (!training)
    return recording() ? Moments{running_mean.clone(), running_var.clone()} : Moments{running_mean, running_var};
  Moments m{Tensor::like(running_mean), Tensor::like(running_var)};
  batchnorm_statistics(x, m.mean, m.var);
  batchnorm_update(m.mean, m.var, x.shape().rows(), options.momentum, running_mean, running_var, num_batches_tracked);
  return m;
}

Tensor BatchNorm2d::operator()(const Tensor& x) {
  const auto [mean, var] = moments(x);
  Tensor y = forward(x, mean, var, weight, bias, options.eps);
  const auto fill = [&, &mean = mean, &var = var](BatchNormNode& node) {
    node.x = x;
    node.mean = mean;
    node.var = var;
    node.weight = weight;
    node.bias = bias;
    node.eps = options.eps;
  };
  if (training) return record<BatchNormTrainingNode>(std::move(y), {x}, {weight, bias}, fill);
  return record<BatchNormEvaluationNode>(std::move(y), {x}, {weight, bias}, fill);
}

void BatchNorm2d::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
  v("running_mean", running_mean);
  v("running_var", running_var);
  v("num_batches_tracked", num_batches_tracked);
  v.mode(training);
}

}  // namespace dattn
