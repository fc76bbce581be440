// GroupNorm: checks, node and module. Its loops are in groupnorm_cpu.cpp.
#include "layers/groupnorm.h"

#include "core/saved.h"
#include "layers/norm_checks.h"

namespace dattn {

namespace {

struct GroupNormNode : Node {
  Saved x;
  Tensor mean, s;
  Parameter weight, bias;
  const char* name() const override { return "groupnorm"; }
  void backward(const Tensor& dy) override {
    Tensor dx, dw, db;
    if (needs(0)) dx = Tensor::like(dy);
    if (weight.trainable()) dw = weight.grad();
    if (bias.trainable()) db = bias.grad();
    groupnorm_backward(dy, x.get(), weight.value(), mean, s, dx, dw, db);
    if (dx) give(0, std::move(dx));
  }
};

void check_groups(std::int64_t groups, std::int64_t channels) {
  check(groups >= 1 && channels >= 1 && channels % groups == 0,
        "groupnorm: {} channels cannot be divided into {} groups", channels, groups);
}

}  // namespace

Tensor groupnorm(const Tensor& x, std::int64_t groups, const Parameter& weight, const Parameter& bias, double eps) {
  check(x.rank() >= 2 && (x.size(0) == 0 || x.shape().rows() > 0),
        "groupnorm: expected [N,...,C] of at least one pixel, got {}", describe("x", x));
  check_norm("groupnorm", x, weight, bias, eps);
  check_groups(groups, x.size(-1));
  Tensor y = Tensor::like(x);
  Tensor mean = Tensor::empty({x.size(0), groups}, exact_type(x.dtype()), x.device()), s = Tensor::like(mean);
  groupnorm_forward(x, weight.value(), bias.value(), eps, y, mean, s);
  return record<GroupNormNode>(std::move(y), {x}, {weight, bias}, [&](GroupNormNode& node) {
    node.x = x;
    node.mean = mean;
    node.s = s;
    node.weight = weight;
    node.bias = bias;
  });
}

GroupNorm::GroupNorm(std::int64_t groups_, std::int64_t channels, double eps_) : groups(groups_), eps(eps_) {
  check_groups(groups, channels);
  weight = Parameter(Tensor::full({channels}, 1), Role::vector);
  bias = Parameter(Tensor::zeros({channels}), Role::vector);
}

void GroupNorm::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
}

}  // namespace dattn
