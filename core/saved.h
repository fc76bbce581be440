// What an operation keeps of its inputs for backward: their elements, or for a large map that can be recomputed in a
// few sweeps over memory, only who makes it.
#pragma once

#include <cstddef>
#include <memory>

#include "core/autograd.h"

namespace dattn {

/// An input of an operation as its node keeps it. A map that is worth it, and whose node can recompute it from what
/// that keeps anyway (Node::recompute_sweeps()), is not kept: get() asks its node. That is still there, since all
/// consumers of a map run backward before its maker does. What is recomputed serves every consumer that asks, until the
/// maker's turn.
class Saved {
 public:
  Saved() = default;
  Saved(const Tensor& x);  // NOLINT: a node's member takes the tensor

  /// The elements, without the graph.
  Tensor get() const;
  /// How many sweeps over memory get() takes; 0 where the elements are kept.
  int recompute_sweeps() const { return maker_ ? sweeps_ : 0; }

 private:
  Tensor x_;
  std::shared_ptr<GradSlot> maker_;
  int sweeps_ = 0;
};

/// Whether a tensor's memory is worth recomputing it: on the CPU that of maps beyond 16 MiB; smaller ones stay in
/// caches and cost little memory. On a GPU none is, unless a test asks.
bool worth_recomputing(const Tensor& x);

/// For tests: while one lives, tensors above `bytes` are worth it on every device.
class RecomputeAbove {
 public:
  explicit RecomputeAbove(std::size_t bytes);
  ~RecomputeAbove();
  RecomputeAbove(const RecomputeAbove&) = delete;
  RecomputeAbove& operator=(const RecomputeAbove&) = delete;

 private:
  std::size_t cpu_, cuda_;
};

}  // namespace dattn
