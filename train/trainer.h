// A training run from options to result: data, model, recipe, epochs, checkpoints, resumption.
#pragma once

#include <memory>
#include <optional>

#include "datasets/images.h"
#include "optim/ema.h"
#include "train/checkpoint.h"
#include "train/evaluate.h"
#include "train/progress.h"
#include "train/recipe.h"
#include "train/run_folder.h"
#include "train/steps.h"

namespace dattn {

/// Exit status of a run that a signal stopped, after it saved.
inline constexpr int kInterrupted = 130;

class Trainer {
 public:
  /// Loads the data, builds the model and, with --resume, restores everything from last.safetensors. `given` names the
  /// options that the user wrote: a resumed run refuses those that differ from the saved ones.
  Trainer(TrainOptions options, const std::vector<std::string>& given);

  /// Trains to the end, to --max-steps or to a signal (SIGINT, SIGTERM, SIGHUP, SIGPIPE); returns the exit status.
  int run();

 private:
  // What a checkpoint holds beside tensors: the place in the run, and sums over the epoch so far.
  struct State {
    std::int64_t step = 0;  // steps taken
    double seconds = 0;     // of training
    double loss = 0;        // summed over the images of this epoch
    std::int64_t correct = 0, images = 0;
    double epoch_seconds = 0;
    double lr = 0;
    std::vector<MetricsRow> rows;
  };
  NLOHMANN_DEFINE_TYPE_INTRUSIVE(State, step, seconds, loss, correct, images, epoch_seconds, lr, rows)

  void build();
  /// The network with its recipe and steps, as they are before the first step.
  void make_network();
  void warm_up();
  void restore(const Checkpoint& checkpoint);
  void refuse_other_options(const nlohmann::json& saved, const std::vector<std::string>& given) const;
  void write_run_json() const;
  void print_plan() const;
  /// The averages where there are any, the model's own tensors for the rest: a whole model. Empty without --ema.
  std::vector<NamedTensor> averaged_tensors();
  /// Tensors under `optimizer.`: the optimizers' state, and the count of averages.
  std::vector<NamedTensor> optimizer_tensors();

  void train_step();
  /// Brings the epoch's sums and the time into the state: all steps are then done.
  void gather();
  void begin_progress();
  void show_progress();
  [[noreturn]] void report(const NonFiniteLoss& lost) const;

  /// Evaluates, notes a row and saves; does nothing where a signal comes first. A row in the middle of an epoch
  /// (--max-steps) leaves the epoch's sums as they are.
  void close_epoch(bool whole);
  std::optional<MetricsRow> evaluate_epoch();
  void print_row(const MetricsRow& row) const;
  bool test_is_due() const;
  void save(const std::string& path);
  void print_end() const;

  std::int64_t epoch() const { return state_.step / steps_per_epoch_; }  ///< from 0, of the next step
  std::int64_t epochs() const { return (total_steps_ + steps_per_epoch_ - 1) / steps_per_epoch_; }
  /// Where this call of run() ends, if nothing stops it before.
  std::int64_t last_step() const {
    return options_.max_steps > 0 ? std::min(options_.max_steps, total_steps_) : total_steps_;
  }
  bool at_epoch_end() const { return state_.step % steps_per_epoch_ == 0 || state_.step == total_steps_; }

  TrainOptions options_;
  Device device_;
  std::optional<Checkpoint> resumed_;
  RunFolder folder_;
  DataSets data_;
  std::string fingerprint_;  // of the data
  ImageSet held_out_;
  RecipePlan plan_;
  std::unique_ptr<Classifier> model_;
  std::unique_ptr<Recipe> recipe_;
  std::unique_ptr<Ema> averages_;  // of the weights, with --ema
  std::unique_ptr<Steps> steps_;
  std::unique_ptr<Progress> progress_;
  bool has_shown_ = false;  // whether an epoch of this run has had its progress
  std::int64_t steps_per_epoch_ = 0, total_steps_ = 0;
  State state_;
  std::int64_t saved_step_ = -1;
};

}  // namespace dattn
