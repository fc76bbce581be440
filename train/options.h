// What the user asks of a training run; kept in run.json and in every checkpoint.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "train/models.h"

namespace dattn {

/// Whether a model has attention blocks.
inline bool has_attention(const std::string& model) { return model != "resnet18"; }

struct TrainOptions {
  // These decide the result: a resumed run must have the same.
  std::string data = "synthetic";
  std::string model = "dattn_cnn";
  std::string attention = "dattention";
  std::vector<std::int64_t> attention_maps = ModelOptions().attention_maps;
  std::int64_t attention_stride = 1;
  double epochs = 0;            ///< 0: the recipe's own
  std::int64_t batch_size = 0;  ///< 0: the recipe's own
  double lr_scale = 1;
  std::uint64_t seed = 0;
  std::int64_t holdout = 0;  ///< training images kept aside to choose the best checkpoint by
  bool ema = false;
  std::string precision;  ///< of activations; empty: the recipe's own

  // These do not.
  std::string device = "cpu";
  std::string out;
  int threads = 0;              ///< 0: all processors
  std::int64_t max_steps = 0;   ///< 0: no early stop
  std::int64_t save_every = 0;  ///< steps between saves; 0: at the end of every epoch
  std::int64_t eval_every = 1;  ///< epochs between evaluations on the test images; the last is always evaluated
  bool warm_up = false;         ///< whether a few steps of a network that is thrown away come before the timed ones
  bool resume = false;
};

/// No run has more steps.
inline constexpr std::int64_t kMostSteps = std::int64_t{1} << 40;

/// The network asked for.
ModelOptions model_options(const TrainOptions& options, std::int64_t classes);

/// The options that decide the result, by their names on the command line.
nlohmann::json result_options(const TrainOptions& options);
/// All options.
nlohmann::json all_options(const TrainOptions& options);
/// What to write beside --out and --resume to go on as before, each option after a space: those that differ from the
/// usual and are not part of the result, but for --max-steps, where this run was told to stop.
std::string resume_options(const TrainOptions& options);
/// Sets the options that decide the result from result_options() of the run saved in `path`. Error where one is missing
/// or out of its range.
void set_result_options(TrainOptions& options, const nlohmann::json& saved, const std::string& path);

struct ParsedTrainOptions {
  TrainOptions options;
  std::vector<std::string> given;  ///< names of the options that were written on the command line or in --config
  int exit_code = -1;              ///< >= 0: leave with this status
};
/// Parses the command line of `train`. On --help and on errors it prints and sets `exit_code` (0, or 2 for wrong
/// usage).
ParsedTrainOptions parse_train_options(int argc, const char* const* argv);

}  // namespace dattn
