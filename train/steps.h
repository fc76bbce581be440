// How training steps are run: on the CPU one after the other, on a device as a graph that is captured once and
// replayed.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "core/error.h"
#include "datasets/images.h"
#include "optim/ema.h"
#include "train/recipe.h"

namespace dattn {

/// What steps work on. It outlives them.
struct Training {
  Classifier& model;
  Recipe& recipe;
  Ema* averages;  ///< or null
  const RecipePlan& plan;
  std::uint64_t seed;
};

/// Sums over the steps of an epoch so far.
struct StepSums {
  double loss = 0;  ///< over images
  std::int64_t correct = 0;
};

/// A loss that is NaN or infinite ends a run.
class NonFiniteLoss : public Error {
 public:
  NonFiniteLoss(std::int64_t of_step, double value, std::string by_layer)
      : Error(fmt::format("the loss of step {} is {}", of_step + 1, value)),
        step(of_step),
        loss(value),
        layers(std::move(by_layer)) {}

  std::int64_t step;  ///< whose loss it is, from 0
  double loss;
  std::string layers;  ///< largest activation and gradient of each layer, a line each; empty where they are not known
};

/// The steps of a run. Batches and random numbers depend on (seed, step) alone, so a run goes on at any step.
class Steps {
 public:
  virtual ~Steps() = default;
  /// Runs step `step`, or gives it to the device, and leaves the recipe prepared for it. On the CPU throws
  /// NonFiniteLoss, with the weights as they were before the step.
  virtual void run(std::int64_t step) = 0;
  /// Sums since they were set. All steps are then done; on a device throws NonFiniteLoss where one of them lost its
  /// loss.
  virtual StepSums sums() = 0;
  virtual void set_sums(const StepSums& sums) = 0;
  /// Time of the steps since the last call, as far as they are known to be done.
  virtual double take_seconds() = 0;
};

/// Batches come from a loader, prepared one ahead.
std::unique_ptr<Steps> make_host_steps(const Training& training, const ImageSet& images,
                                       const Normalisation& normalisation);
/// The images lie on the device as bytes; what a step needs to know of its batch and its rates is uploaded by the first
/// one for its whole epoch, and no other waits for the host or makes it wait. The model's parameters are on the device.
std::unique_ptr<Steps> make_device_steps(const Training& training, const ImageSet& images,
                                         const Normalisation& normalisation);

}  // namespace dattn
