// The engine: pops the slot with the largest number from a heap, so every consumer has run before its producer.
#include "core/autograd.h"

#include <algorithm>
#include <atomic>
#include <iterator>
#include <utility>
#include <vector>

#include "core/ops.h"

namespace dattn {

namespace {

thread_local bool recording_here = true;

using Heap = std::vector<std::shared_ptr<GradSlot>, PoolAllocator<std::shared_ptr<GradSlot>>>;
thread_local Heap* running = nullptr;  // the heap of the backward() in this thread

bool later(const std::shared_ptr<GradSlot>& a, const std::shared_ptr<GradSlot>& b) { return a->number < b->number; }

std::shared_ptr<GradSlot> make_slot(std::shared_ptr<Node> node) {
  static std::atomic<std::uint64_t> count{0};
  auto slot = make_pooled<GradSlot>();
  slot->number = ++count;
  slot->node = std::move(node);
  return slot;
}

// The first gradient of a slot is taken as it is and queues the slot; a later one is added, in place where nobody
// shares it.
void accumulate(const std::shared_ptr<GradSlot>& slot, Tensor dx) {
  check(slot->leaf || slot->node,
        "backward: this graph has run already, and what it had saved is released\nhint: run forward again");
  if (slot->grad) {
    Tensor sum = slot->grad.unique() ? slot->grad : Tensor::like(slot->grad);
    add_forward(slot->grad, dx, sum);
    slot->grad = std::move(sum);
    return;
  }
  slot->grad = std::move(dx);
  if (slot->leaf) return;
  running->push_back(slot);
  std::push_heap(running->begin(), running->end(), later);
}

}  // namespace

std::shared_ptr<GradSlot> make_leaf_slot() {
  auto slot = make_slot(nullptr);
  slot->leaf = true;
  return slot;
}

Node::~Node() {
  thread_local Heap* dying = nullptr;  // the work list of the outermost destructor in this thread
  if (dying) {
    std::move(inputs.begin(), inputs.end(), std::back_inserter(*dying));
    return;
  }
  Heap list(std::make_move_iterator(inputs.begin()), std::make_move_iterator(inputs.end()));
  dying = &list;
  while (!list.empty()) {
    const auto slot = std::move(list.back());
    list.pop_back();
  }
  dying = nullptr;
}

void Node::give(std::size_t i, Tensor dx) {
  if (inputs[i]) accumulate(inputs[i], std::move(dx));
}

void backward(const Tensor& y, Tensor dy) {
  check(y.needs_grad(), "backward: the tensor {} depends on nothing that is tracked or trained", y.shape());
  check(
      dy.defined() || y.elements() == 1,
      "backward: {} is no scalar, so its gradient must be given\nhint: backward(y, dy), or reduce y by sum() or mean()",
      y.shape());
  if (!dy) {
    dy = Tensor::like(y);
    dy.fill(1);
  }
  check(dy.shape() == y.shape() && dy.dtype() == y.dtype(), "backward: expected a gradient like {}, got {}",
        describe("y", y), describe("dy", dy));
  NoGrad no_grad;
  Heap heap;
  Heap* outer = std::exchange(running, &heap);
  struct Restore {
    Heap* heap;
    ~Restore() { running = heap; }
  } restore{outer};
  accumulate(y.slot(), std::move(dy));
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const auto slot = std::move(heap.back());
    heap.pop_back();
    const auto node = std::move(slot->node);  // frees the saved tensors at the end of this turn
    const Tensor grad = std::move(slot->grad);
    slot->recomputed = Tensor();
    node->backward(grad);
  }
}

NoGrad::NoGrad() : before_(std::exchange(recording_here, false)) {}
NoGrad::~NoGrad() { recording_here = before_; }

bool recording() { return recording_here; }

bool detail::wants_node(std::span<const Tensor> inputs, std::span<const Parameter> parameters) {
  if (!recording_here) return false;
  return std::any_of(inputs.begin(), inputs.end(), [](const Tensor& x) { return x.needs_grad(); }) ||
         std::any_of(parameters.begin(), parameters.end(), [](const Parameter& p) { return p.trainable(); });
}

Tensor detail::attach(Tensor y, std::shared_ptr<Node> node, std::span<const Tensor> inputs) {
  node->inputs.reserve(inputs.size());
  for (const Tensor& x : inputs) node->inputs.push_back(x.slot());
  y.set_slot(make_slot(std::move(node)));
  return y;
}

}  // namespace dattn
