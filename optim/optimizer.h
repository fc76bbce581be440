// Optimizers: what all of them share, which is groups of flat parameters, the count of steps, the numbers of an update,
// and state for checkpoints.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/flat_parameters.h"
#include "optim/update_numbers.h"

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

  /// One update of all groups by their present rates. Gradients are left as they are. Error where a parameter has left
  /// its flat buffer.
  void step();

  // The parts of step(), for updates that are captured once and replayed: numbers() get what write_numbers() gives for
  // the next update, update() applies it, count_steps() counts it.

  /// Those of update t (1, 2, ...) under the groups' present rates, decays and scales.
  void write_numbers(std::int64_t t, double* numbers) const;
  /// float64, one-dimensional, on the parameters' device, where update() finds them.
  Tensor& numbers() { return numbers_.tensor(); }
  /// Updates all groups by numbers(). On a device it does nothing on the host that depends on the step; which
  /// parameters are trained is fixed by its capture.
  void update();
  /// Counts updates that were replayed.
  void count_steps(std::int64_t n) { steps_.data<std::int64_t>()[0] += n; }

  void zero_grad();
  /// Steps taken, those before a checkpoint included.
  std::int64_t steps() const { return steps_.data<std::int64_t>()[0]; }

  /// Everything that the next step depends on besides values, gradients and the groups' numbers: `NAME.step` (one
  /// int64) and `NAME.KIND.PARAMETER` in the parameter's shape, such as `sgd.momentum.head.weight`. Loading copies into
  /// these tensors.
  std::vector<NamedTensor> state() const;

 protected:
  /// `moments` names the running tensors that the optimizer keeps for every element; they start at zero. The update of
  /// a group reads `numbers` doubles.
  Optimizer(const char* name, std::vector<ParameterGroup> groups, const std::vector<const char*>& moments,
            std::int64_t numbers);

  /// Writes the numbers of a group's update t.
  virtual void write_numbers_of(const ParameterGroup& group, std::int64_t t, double* numbers) const = 0;
  /// Updates group g by its numbers.
  virtual void update_group(std::size_t g, const Tensor& numbers) = 0;

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
  std::int64_t group_numbers_;
  UpdateNumbers numbers_;  // [groups, group_numbers_]
};

}  // namespace dattn
