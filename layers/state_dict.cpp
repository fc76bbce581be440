// Tensors of modules in files, in PyTorch's order of dimensions.
#include "layers/state_dict.h"

#include <algorithm>

#include "core/ops.h"

namespace dattn {

namespace {

Shape file_shape(const Shape& s) { return s.rank() == 4 ? Shape{s[0], s[3], s[1], s[2]} : s; }

// The tensors of a file whose names begin with a prefix, without it.
TensorMap with_prefix(const TensorMap& file, const std::string& prefix) {
  TensorMap found;
  for (auto it = file.lower_bound(prefix); it != file.end() && it->first.starts_with(prefix); ++it) {
    found.emplace(it->first.substr(prefix.size()), it->second);
  }
  return found;
}

}  // namespace

void put_state(const std::vector<NamedTensor>& tensors, const std::string& prefix, TensorMap& file) {
  for (const auto& [name, tensor] : tensors) {
    const Tensor here = tensor.detach().to(Device::cpu);
    file.emplace(prefix + name, here.rank() == 4 ? to_nchw(here) : here);
  }
}

void take_state(const TensorMap& file, const std::string& prefix, const std::vector<NamedTensor>& targets,
                const std::string& path) {
  const TensorMap found = with_prefix(file, prefix);
  std::string problems;
  for (const auto& [name, target] : targets) {
    const auto it = found.find(name);
    const Shape expected = file_shape(target.shape());
    if (it == found.end()) {
      problems += fmt::format("\n  missing   {}{} {}", prefix, name, expected);
    } else if (it->second.shape() != expected || it->second.dtype() != target.dtype()) {
      problems += fmt::format("\n  misshapen {}{}: expected {} {}, found {} {}", prefix, name, expected,
                              dattn::name(target.dtype()), it->second.shape(), dattn::name(it->second.dtype()));
    }
  }
  for (const auto& [name, x] : found) {
    const auto same = [&wanted = name](const NamedTensor& t) { return t.name == wanted; };
    if (std::none_of(targets.begin(), targets.end(), same))
      problems += fmt::format("\n  extra     {}{} {}", prefix, name, x.shape());
  }
  check(problems.empty(), "{}: its tensors are not the expected ones:{}", path, problems);
  for (auto [name, target] : targets) {
    const Tensor& x = found.at(name);
    target.copy_from(x.rank() == 4 ? from_nchw(x) : x);
  }
}

}  // namespace dattn
