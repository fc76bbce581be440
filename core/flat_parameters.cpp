// Flat parameters: laying out the groups and moving the parameters in.
#include "core/flat_parameters.h"

#include <algorithm>
#include <utility>

#include "core/parallel.h"

namespace dattn {

namespace {

using Slice = FlatGroup::Slice;

// Refuses what cannot share buffers with the parameters before it.
void check_joins(const Slice& slice, const std::vector<Slice>& before) {
  const auto same = std::find_if(before.begin(), before.end(),
                                 [&](const Slice& other) { return other.parameter == slice.parameter; });
  check(same == before.end(), "flat_parameters: {} and {} are the same parameter",
        same == before.end() ? "" : same->name, slice.name);
  const Tensor& value = slice.parameter.value();
  dispatch_float("flat_parameters", value.dtype(), []<typename T>() {});
  if (before.empty()) return;
  const Tensor& first = before.front().parameter.value();
  check(value.dtype() == first.dtype() && value.device() == first.device(),
        "flat_parameters: expected {} on {} like {}, {} is {} on {}", name(first.dtype()), name(first.device()),
        before.front().name, slice.name, name(value.dtype()), name(value.device()));
}

}  // namespace

Tensor FlatGroup::part(const Tensor& flat, const Slice& slice) {
  return flat.slice(slice.begin, slice.end).view(slice.parameter.shape());
}

FlatParameters::FlatParameters(const std::vector<std::vector<NamedParameter>>& groups) {
  std::vector<Slice> all;                 // places in the whole buffers
  std::vector<std::size_t> first_slices;  // of each group, in `all`
  std::int64_t elements = 0;
  for (const auto& group : groups) {
    first_slices.push_back(all.size());
    for (const auto& [name, parameter] : group) {
      if (parameter.role() == Role::frozen) continue;
      Slice slice{name, parameter, elements, elements + parameter.value().elements()};
      check_joins(slice, all);
      const auto aligned = static_cast<std::int64_t>(kAlignment / size_of(parameter.value().dtype()));
      elements = round_up(slice.end, aligned);
      all.push_back(std::move(slice));
    }
  }
  first_slices.push_back(all.size());

  const Tensor first = all.empty() ? Tensor::empty({0}) : all.front().parameter.value();
  values_ = Tensor::zeros({elements}, first.dtype(), first.device());
  grads_ = Tensor::zeros({elements}, first.dtype(), first.device());
  for (const Slice& slice : all)
    slice.parameter.rebind(FlatGroup::part(values_, slice), FlatGroup::part(grads_, slice));

  const auto begin_of = [&](std::size_t i) { return i < all.size() ? all[i].begin : elements; };
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const std::int64_t begin = begin_of(first_slices[g]), end = begin_of(first_slices[g + 1]);
    FlatGroup group{values_.slice(begin, end), grads_.slice(begin, end), {}};
    for (std::size_t i = first_slices[g]; i < first_slices[g + 1]; ++i) {
      group.slices.push_back({all[i].name, all[i].parameter, all[i].begin - begin, all[i].end - begin});
    }
    groups_.push_back(std::move(group));
  }
}

const FlatGroup& FlatParameters::group(std::size_t i) const {
  check(i < groups_.size(), "flat_parameters: no group {} among {}", i, groups_.size());
  return groups_[i];
}

}  // namespace dattn
