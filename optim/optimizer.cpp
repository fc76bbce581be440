// Optimizers: groups by role, updates, state.
#include "optim/optimizer.h"

#include <algorithm>
#include <utility>

namespace dattn {

std::vector<std::vector<NamedParameter>> group_by_role(const std::vector<NamedParameter>& parameters,
                                                       const std::vector<std::vector<Role>>& role_sets) {
  std::vector<std::vector<NamedParameter>> groups(role_sets.size());
  for (const NamedParameter& named : parameters) {
    const Role role = named.parameter.role();
    if (role == Role::frozen) continue;
    const auto set = std::find_if(role_sets.begin(), role_sets.end(), [&](const std::vector<Role>& roles) {
      return std::find(roles.begin(), roles.end(), role) != roles.end();
    });
    check(set != role_sets.end(), "group_by_role: no group takes {}, which is a {}", named.name, name(role));
    groups[static_cast<std::size_t>(set - role_sets.begin())].push_back(named);
  }
  return groups;
}

namespace {

Device device_of(const std::vector<ParameterGroup>& groups) {
  return groups.empty() ? Device::cpu : groups.front().flat.values.device();
}

}  // namespace

Optimizer::Optimizer(const char* name, std::vector<ParameterGroup> groups, const std::vector<const char*>& moments,
                     std::int64_t numbers)
    : name_(name),
      groups_(std::move(groups)),
      steps_(Tensor::zeros({}, Dtype::int64)),
      group_numbers_(numbers),
      numbers_(static_cast<std::int64_t>(groups_.size()) * numbers, device_of(groups_)) {
  for (const ParameterGroup& group : groups_) {
    check(group.flat.values.defined(), "{}: a group has no parameters\nhint: take groups from FlatParameters", name_);
    check(group.flat.values.device() == device_of(groups_), "{}: expected all groups on one device", name_);
  }
  for (const char* moment_name : moments) {
    Moment moment{moment_name, {}};
    for (const ParameterGroup& group : groups_) {
      const Tensor& values = group.flat.values;
      moment.tensors.push_back(Tensor::zeros(values.shape(), values.dtype(), values.device()));
    }
    moments_.push_back(std::move(moment));
  }
}

void Optimizer::step() {
  numbers_.set([this](double* numbers) { write_numbers(steps() + 1, numbers); });
  update();
  count_steps(1);
}

void Optimizer::write_numbers(std::int64_t t, double* numbers) const {
  for (const ParameterGroup& group : groups_) {
    write_numbers_of(group, t, numbers);
    numbers += group_numbers_;
  }
}

void Optimizer::update() {
  for (const ParameterGroup& group : groups_) {
    for (const FlatGroup::Slice& slice : group.flat.slices) {
      const auto offset = static_cast<std::size_t>(slice.begin) * size_of(group.flat.values.dtype());
      check(slice.parameter.value().raw() == group.flat.values.raw() + offset &&
                slice.parameter.grad().raw() == group.flat.grads.raw() + offset,
            "{}: {} has left its flat buffer\nhint: convert the model before FlatParameters is made", name_,
            slice.name);
    }
  }
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const std::int64_t begin = static_cast<std::int64_t>(g) * group_numbers_;
    update_group(g, numbers().slice(begin, begin + group_numbers_));
  }
}

void Optimizer::zero_grad() {
  for (ParameterGroup& group : groups_) group.flat.grads.fill(0);
}

std::vector<NamedTensor> Optimizer::state() const {
  std::vector<NamedTensor> state{{fmt::format("{}.step", name_), steps_}};
  for (const Moment& moment : moments_) {
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      for (const FlatGroup::Slice& slice : groups_[g].flat.slices) {
        state.push_back(
            {fmt::format("{}.{}.{}", name_, moment.name, slice.name), FlatGroup::part(moment.tensors[g], slice)});
      }
    }
  }
  return state;
}

}  // namespace dattn
