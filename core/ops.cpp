// Basic operations: checks and nodes. Their loops are in ops_cpu.cpp.
#include "core/ops.h"

namespace dattn {

namespace {

void check_same(const char* operation, const Tensor& a, const Tensor& b) {
  check(a.shape() == b.shape() && a.dtype() == b.dtype(), "{}: expected two tensors of one shape and type ({}, {})", operation,
        describe("a", a), describe("b", b));
}

}  // namespace

// --- add ---

namespace {
struct AddNode : Node {
  const char* name() const override { return "add"; }
  void backward(const Tensor& dy) override {
    give(0, dy);
    give(1, dy);
  }
};
}  // namespace

Tensor add(const Tensor& a, const Tensor& b) {
  check_same("add", a, b);
  Tensor y = Tensor::like(a);
  add_forward(a, b, y);
  return record<AddNode>(std::move(y), {a, b}, {}, [](AddNode&) {});
}

// --- reshape ---

namespace {
struct ReshapeNode : Node {
  Shape before;
  const char* name() const override { return "reshape"; }
  void backward(const Tensor& dy) override { give(0, dy.view(before)); }
};
}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) {
  return record<ReshapeNode>(x.view(shape), {x}, {}, [&](ReshapeNode& node) { node.before = x.shape(); });
}

}  // namespace dattn
