// How a network is trained: batch size, augmentation, loss, optimizers and their schedules.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/dtype.h"
#include "datasets/augment.h"
#include "layers/loss.h"
#include "optim/optimizer.h"
#include "train/models.h"
#include "train/options.h"

namespace dattn {

/// What a recipe fixes before the first step.
struct RecipePlan {
  double epochs = 8;
  std::int64_t batch_size = 1000;
  double label_smoothing = 0;
  Reduction reduction = Reduction::sum;
  AugmentOptions augment;
  Dtype precision = Dtype::float32;  ///< of activations
};

/// The plan for a model on a data set, with the user's epochs, batch size and precision where given. The precision is
/// otherwise the fastest on this machine that whole runs of the model have been seen to lose nothing by.
RecipePlan plan_recipe(const TrainOptions& options, Device device);

/// The optimizers of a run, over flat parameters.
class Recipe {
 public:
  virtual ~Recipe() = default;
  /// Sets learning rates, and what is trained, for step `step` (from 0).
  virtual void prepare(std::int64_t step) = 0;
  /// The main learning rate as prepare() set it, for reports.
  virtual double learning_rate() const = 0;
  /// Applies the gradients and clears them.
  void step();
  /// The device's part of step(), which takes its numbers from those of the optimizers: for a captured step.
  void update();
  const std::vector<std::unique_ptr<Optimizer>>& optimizers() const { return optimizers_; }
  /// State of all optimizers, for checkpoints; loading copies into it.
  std::vector<NamedTensor> state();
  const FlatParameters& flat() const { return flat_; }

 protected:
  explicit Recipe(const std::vector<std::vector<NamedParameter>>& groups) : flat_(groups) {}
  /// Makes an optimizer over some groups of flat(), which step() and update() then apply.
  template <typename O, typename Options>
  O* add(std::vector<ParameterGroup> groups, const Options& options) {
    auto optimizer = std::make_unique<O>(std::move(groups), options);
    O* made = optimizer.get();
    optimizers_.push_back(std::move(optimizer));
    return made;
  }

 private:
  FlatParameters flat_;
  std::vector<std::unique_ptr<Optimizer>> optimizers_;
};

/// Makes the optimizers for a model. `steps` is the length of the schedule, `steps_per_epoch` counts for what ends by
/// epochs.
std::unique_ptr<Recipe> make_recipe(const TrainOptions& options, const RecipePlan& plan, Classifier& model,
                                    std::int64_t steps, std::int64_t steps_per_epoch);

}  // namespace dattn
