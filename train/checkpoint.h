// Checkpoints: one safetensors file with model, optimizer and averaged weights, and as metadata everything else of a
// run.
//
// Tensors: `model.NAME` (PyTorch's names and orders: filters [O,I,Kh,Kw]), `ema.NAME`, `optimizer.NAME`. Metadata:
// `format`, a name, and the JSON objects `model`, `data`, `options`, `state`. `eval` needs `model` and `data`;
// `--resume` all of them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/state_file.h"
#include "datasets/images.h"
#include "layers/state_dict.h"
#include "train/models.h"

namespace dattn {

/// What a checkpoint says beside its tensors.
struct CheckpointInfo {
  ModelOptions model;
  std::vector<std::string> class_names;
  Normalisation normalisation;  ///< of the images it was trained on
  std::string fingerprint;      ///< of these images; empty in older checkpoints
  nlohmann::json options;       ///< result_options() of the run
  nlohmann::json state;         ///< the trainer's own: step, seconds, sums over the epoch so far, metrics
  bool has_ema = false;
};

/// Writes a checkpoint beside `path`, syncs it and renames it over `path`. `ema` may be empty. Tensors may lie on any
/// device: the file is the same.
void write_checkpoint(const std::string& path, const CheckpointInfo& info, const std::vector<NamedTensor>& model,
                      const std::vector<NamedTensor>& ema, const std::vector<NamedTensor>& optimizer);

/// A checkpoint in memory.
class Checkpoint {
 public:
  /// Error where the file is missing, broken or no checkpoint of dattn.
  explicit Checkpoint(const std::string& path);

  const std::string& path() const { return path_; }
  const CheckpointInfo& info() const { return info_; }
  /// Copies the tensors `prefix`NAME into `targets`, wherever these lie. Missing, extra and misshapen ones are listed
  /// all at once in one Error.
  void load(const std::string& prefix, const std::vector<NamedTensor>& targets) const;

 private:
  std::string path_;
  CheckpointInfo info_;
  TensorMap tensors_;
};

/// A model on the CPU with the weights of a checkpoint: the averaged ones where the run kept an average, as training
/// evaluated them.
std::unique_ptr<Classifier> load_model(const Checkpoint& checkpoint);

}  // namespace dattn
