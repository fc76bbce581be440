// Cross entropy: checks and node. Its loops are in loss_cpu.cpp.
#include "layers/loss.h"

namespace dattn {

namespace {

struct CrossEntropyNode : Node {
  Tensor logits, targets;
  double label_smoothing;
  Reduction reduction;
  const char* name() const override { return "cross_entropy"; }
  void backward(const Tensor& dloss) override {
    Tensor dlogits = Tensor::like(logits);
    cross_entropy_backward(dloss, logits, targets, label_smoothing, reduction, dlogits);
    give(0, std::move(dlogits));
  }
};

void check_targets(const Tensor& logits, const Tensor& targets) {
  if (targets.dtype() == Dtype::int64) {
    check(targets.shape() == Shape{logits.size(0)}, "cross_entropy: expected one class a row, int64 [{}] ({}, {})",
          logits.size(0), describe("logits", logits), describe("targets", targets));
    return;
  }
  check(targets.dtype() == exact_type(logits.dtype()) && targets.shape() == logits.shape(),
        "cross_entropy: expected classes int64 [{}] or distributions {} {} as targets ({}, {})", logits.size(0),
        name(exact_type(logits.dtype())), logits.shape(), describe("logits", logits), describe("targets", targets));
  check(!targets.needs_grad(),
        "cross_entropy: targets get no gradient, yet these are tracked ({})\nhint: pass targets.detach()",
        describe("targets", targets));
}

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& targets, double label_smoothing, Reduction reduction) {
  check(logits.rank() == 2 && logits.elements() > 0, "cross_entropy: expected logits [N, classes], got {}",
        describe("logits", logits));
  check(label_smoothing >= 0 && label_smoothing <= 1,
        "cross_entropy: expected a label smoothing between 0 and 1, got {}", label_smoothing);
  check_targets(logits, targets);
  Tensor loss = Tensor::empty({}, exact_type(logits.dtype()), logits.device());
  cross_entropy_forward(logits, targets, label_smoothing, reduction, loss);
  return record<CrossEntropyNode>(loss, {logits}, {}, [&](CrossEntropyNode& node) {
    node.logits = logits.detach();
    node.targets = targets;
    node.label_smoothing = label_smoothing;
    node.reduction = reduction;
  });
}

}  // namespace dattn
