// Modules in files: parameters and buffers under PyTorch's names and in its order of dimensions, so that
// `load_state_dict(safetensors.torch.load_file(path))` takes them, and the other way round.
#pragma once

#include <string>
#include <vector>

#include "core/state_file.h"
#include "layers/module.h"

namespace dattn {

/// Parameters, then buffers, of a module by name; they share its elements.
template <Module M>
std::vector<NamedTensor> state_dict(M& module) {
  std::vector<NamedTensor> tensors;
  for (auto& [name, p] : parameters(module)) tensors.push_back({name, p.value()});
  for (auto& b : buffers(module)) tensors.push_back(b);
  return tensors;
}

/// Adds tensors, wherever they lie, to those of a file as `prefix`NAME. Filters [O,Kh,Kw,I], which alone have rank 4,
/// become [O,I,Kh,Kw].
void put_state(const std::vector<NamedTensor>& tensors, const std::string& prefix, TensorMap& file);

/// Copies the tensors `prefix`NAME of a file into `targets`, wherever these lie. Missing, extra and misshapen ones are
/// listed all at once in one Error that begins with `path`, and then nothing is copied.
void take_state(const TensorMap& file, const std::string& prefix, const std::vector<NamedTensor>& targets,
                const std::string& path);

/// Writes a module's parameters and buffers (core/state_file.h).
template <Module M>
void save(M& module, const std::string& path, const Metadata& metadata = {}) {
  TensorMap file;
  put_state(state_dict(module), "", file);
  write_state_file(path, file, metadata);
}

/// Reads them back, from a file of save(), of PyTorch's safetensors, or with the prefix `model.` from a checkpoint of
/// `train`. Error where the file is broken or its tensors under the prefix are not the module's; the module is then as
/// it was.
template <Module M>
void load(M& module, const std::string& path, const std::string& prefix = "") {
  take_state(read_state_file(path).tensors, prefix, state_dict(module), path);
}

}  // namespace dattn
