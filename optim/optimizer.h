// Optimizers: what all of them share, which is groups of flat parameters, the count of steps, and state for
// checkpoints.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/flat_parameters.h"

namespace dattn {

/// Parameters and the numbers that update them, which may be set before every step.
struct ParameterGroup {
  FlatGroup flat;
  double lr = 0;              ///< learning rate
  double weight_decay = 0;    ///< as the optimizer defines it
  double gradient_scale = 1;  ///< gradients are multiplied by it first: 1 / batch turns a summed loss into a mean
};

/// One list for each set of roles, in the parameters' order. Frozen parameters are left out; one of another role that
/// no set names is an Error, so that none stays untrained by oversight.
///   FlatParameters flat(group_by_role(parameters(model), {{Role::matrix}, {Role::vector, Role::table}}));
///   AdamW adamw({{flat.group(0), 1e-3, 0.01}, {flat.group(1), 1e-3}});
std::vector<std::vector<NamedParameter>> group_by_role(const std::vector<NamedParameter>& parameters,
                                                       const std::vector<std::vector<Role>>& role_sets);

/// Updates the values of its groups from their gradients. A parameter whose training is switched off
/// (Parameter::set_trainable) is left as it is, with its state, though steps go on counting.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  const char* name() const { return name_; }
  std::vector<ParameterGroup>& groups() { return groups_; }
  const std::vector<ParameterGroup>& groups() const { return groups_; }

  /// One update of all groups. Gradients are left as they are. Error where a parameter has left its flat buffer.
  void step();
  void zero_grad();
  /// Steps taken, those before a checkpoint included.
  std::int64_t steps() const { return steps_.data<std::int64_t>()[0]; }

  /// Everything that the next step depends on besides values, gradients and the groups' numbers: `NAME.step` (one
  /// int64) and `NAME.KIND.PARAMETER` in the parameter's shape, such as `sgd.momentum.head.weight`. Loading copies into
  /// these tensors.
  std::vector<NamedTensor> state() const;

 protected:
  /// `moments` names the running tensors that the optimizer keeps for every element; they start at zero.
  Optimizer(const char* name, std::vector<ParameterGroup> groups, const std::vector<const char*>& moments);

  /// Updates group g.
  virtual void update(std::size_t g) = 0;

  /// Moment i (in the constructor's order) of group g: [elements] like the group's values.
  const Tensor& moment(std::size_t i, std::size_t g) const { return moments_[i].tensors[g]; }

  /// Calls f(begin, end) for the runs of elements whose parameters are trained: one run, unless some are switched off.
  template <typename F>
  static void for_trained_runs(const FlatGroup& flat, F&& f) {
    std::int64_t begin = 0, end = 0;
    for (const FlatGroup::Slice& slice : flat.slices) {
      if (slice.parameter.trainable()) {
        if (begin == end) begin = slice.begin;
        end = slice.end;
      } else if (end > begin) {
        f(begin, end);
        begin = end;
      }
    }
    if (end > begin) f(begin, end);
  }

 private:
  struct Moment {
    const char* name;
    std::vector<Tensor> tensors;  // one a group
  };

  const char* name_;
  std::vector<ParameterGroup> groups_;
  std::vector<Moment> moments_;
  Tensor steps_;  // int64, one element
};

}  // namespace dattn
