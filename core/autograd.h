// Reverse-mode differentiation: nodes that operations record, and the engine that runs them backwards.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "core/parameter.h"
#include "core/tensor.h"

namespace dattn {

struct Node;

/// Where the gradient of one tensor gathers while backward() runs. Numbers grow with creation, so a slot's number is
/// larger than those of all slots it depends on.
struct GradSlot {
  std::uint64_t number = 0;
  Tensor grad;                 ///< the sum over the consumers that have run
  std::shared_ptr<Node> node;  ///< the operation that made the tensor, until it has run
  Tensor recomputed;           ///< the tensor recomputed for its consumers (core/saved.h), until the operation runs
  bool leaf = false;           ///< a tracked input: made by no operation, keeps its gradient
};

/// Of a tracked input: for Tensor::track().
std::shared_ptr<GradSlot> make_leaf_slot();

/// One recorded operation. Each operation derives a named struct whose members are what it saves for backward; they are
/// released once the node has run. A node must not save its own output with the graph attached (record() sees to that
/// when members are set inside its `fill`).
struct Node {
  virtual ~Node();  ///< frees a graph that never ran without recursion, however deep
  virtual const char* name() const = 0;
  /// Takes the gradient of the output; gives the gradients of inputs by give() and adds (+=) those of parameters in
  /// place.
  virtual void backward(const Tensor& dy) = 0;

  /// How many sweeps over memory recompute() takes; 0 where the node cannot make its output, or not as cheaply as that.
  virtual int recompute_sweeps() const { return 0; }
  /// The output once more, bit for bit, from what the node keeps for backward.
  virtual Tensor recompute() const { return {}; }

  /// Whether input i (in record()'s order) wants a gradient.
  bool needs(std::size_t i) const { return inputs[i] != nullptr; }
  /// Hands over the gradient of input i: written (=) by the kernel; the engine adds where several consumers give one.
  void give(std::size_t i, Tensor dx);

  std::vector<std::shared_ptr<GradSlot>, PoolAllocator<std::shared_ptr<GradSlot>>> inputs;
};

/// Runs all recorded nodes from `y` back, `dy` being its gradient (1 for a scalar when left out). Leaves keep their
/// gradients until the next backward() through them adds to it; parameters add to theirs. A graph runs once.
/// Error where y depends on nothing tracked or trained, is no scalar and `dy` is left out, or has another shape or type
/// than `dy`, and where the graph has run.
void backward(const Tensor& y, Tensor dy = {});

/// While one lives in a thread, that thread records nothing.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool before_;
};

/// Whether this thread records: no NoGrad lives in it.
bool recording();

namespace detail {
bool wants_node(std::span<const Tensor> inputs, std::span<const Parameter> parameters);
Tensor attach(Tensor y, std::shared_ptr<Node> node, std::span<const Tensor> inputs);
}  // namespace detail

/// Ends an operation: returns `y`, recorded as the output of a node of type N where gradients are wanted by an input or
/// a parameter. `fill(node)` then saves what backward needs.
///   return record<SoftmaxNode>(y, {x}, {}, [&](SoftmaxNode& node) { node.y = y.detach(); });
template <typename N, typename Fill>
Tensor record(Tensor y, std::span<const Tensor> inputs, std::span<const Parameter> parameters, Fill&& fill) {
  if (!detail::wants_node(inputs, parameters)) return y;
  auto node = make_pooled<N>();
  fill(*node);
  return detail::attach(std::move(y), std::move(node), inputs);
}

template <typename N, typename Fill>
Tensor record(Tensor y, std::initializer_list<Tensor> inputs, std::initializer_list<Parameter> parameters,
              Fill&& fill) {
  return record<N>(std::move(y), std::span(inputs.begin(), inputs.size()),
                   std::span(parameters.begin(), parameters.size()), std::forward<Fill>(fill));
}

}  // namespace dattn
