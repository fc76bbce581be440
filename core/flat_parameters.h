// Flat parameters: the values and the gradients of many parameters as views of two flat buffers, group after group.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/parameter.h"

namespace dattn {

/// Parameters that an optimizer treats alike, end to end in both buffers. A handle: copies share the elements.
struct FlatGroup {
  struct Slice {
    std::string name;
    Parameter parameter;
    std::int64_t begin, end;  ///< elements of `values` and `grads`
  };
  Tensor values, grads;  ///< [elements]; zero between the slices, whose beginnings are aligned to kAlignment
  std::vector<Slice> slices;

  /// The part of a flat tensor that belongs to a slice, in the shape of its parameter.
  static Tensor part(const Tensor& flat, const Slice& slice);
};

/// Moves parameters into flat buffers, so that one memset clears all gradients, one loop updates a group, and addresses
/// stay. To be made once the model is built and in its final type: a parameter converted later has left the buffers,
/// which Optimizer::step() refuses.
class FlatParameters {
 public:
  /// Frozen parameters, which have no gradient, are left out and stay where they are. Error: a parameter that occurs
  /// twice, or of another type or device than the first.
  explicit FlatParameters(const std::vector<std::vector<NamedParameter>>& groups);

  const std::vector<FlatGroup>& groups() const { return groups_; }
  const FlatGroup& group(std::size_t i) const;
  const Tensor& values() const { return values_; }  ///< [elements] of all groups
  const Tensor& grads() const { return grads_; }    ///< [elements] of all groups
  void zero_grad() { grads_.fill(0); }

 private:
  std::vector<FlatGroup> groups_;
  Tensor values_, grads_;
};

}  // namespace dattn
