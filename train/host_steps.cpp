// Training steps on the CPU.
#include <chrono>
#include <cmath>
#include <utility>

#include "core/autograd.h"
#include "core/random.h"
#include "datasets/loader.h"
#include "train/step_totals.h"
#include "train/watch.h"

namespace dattn {

namespace {

class HostSteps final : public Steps {
 public:
  HostSteps(const Training& training, const ImageSet& images, const Normalisation& normalisation)
      : training_(training),
        loader_(images, normalisation,
                training_options(training.plan.batch_size, training.seed, training.plan.augment)) {}

  void run(std::int64_t step) override;
  StepSums sums() override { return totals_.get(); }
  void set_sums(const StepSums& sums) override { totals_.set(sums); }
  double take_seconds() override { return std::exchange(seconds_, 0); }

 private:
  Tensor loss_of(const Tensor& logits, const Batch& batch) const {
    return cross_entropy(logits, batch.targets ? batch.targets : batch.labels, training_.plan.label_smoothing,
                         training_.plan.reduction);
  }
  std::string layers(const Batch& batch);

  Training training_;
  Loader loader_;
  Tensor step_ = Tensor::zeros({}, Dtype::int64);
  StepTotals totals_{Device::cpu};
  double seconds_ = 0;
};

void HostSteps::run(std::int64_t step) {
  const auto start = std::chrono::steady_clock::now();
  const Place place{step / loader_.batches_per_epoch(), step % loader_.batches_per_epoch()};
  if (loader_.place() != place) loader_.seek(place);
  const Batch& batch = loader_.next();
  set_random_step(training_.seed, static_cast<std::uint64_t>(step));
  training_.recipe.prepare(step);
  const Tensor logits = training_.model.forward(batch.images.to(training_.plan.precision));  // [B,classes]
  const Tensor loss = loss_of(logits, batch);
  const double value = loss.item();
  if (!std::isfinite(value)) throw NonFiniteLoss(step, value, layers(batch));
  backward(loss);
  training_.recipe.step();
  if (training_.averages) training_.averages->step();
  step_.data<std::int64_t>()[0] = step;
  totals_.add(logits, batch.labels, loss, training_.plan.reduction, step_);
  seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The same pass once more, watched: the weights are still those that gave the lost loss.
std::string HostSteps::layers(const Batch& batch) {
  ActivationWatch watching;
  backward(loss_of(training_.model.forward(batch.images.to(training_.plan.precision)), batch));
  std::string table = fmt::format("\n  {:<24}  {:>18}  {:>16}", "layer", "largest activation", "largest gradient");
  for (const auto& [layer, largest] : watching.entries()) {
    double gradient = 0;
    for (const auto& [name, p] : parameters(training_.model)) {
      if (!p.trainable() || !name.starts_with(layer + ".")) continue;
      const double largest_here = largest_magnitude(p.grad());
      if (!(largest_here <= gradient)) gradient = largest_here;  // a NaN stays
    }
    table += fmt::format("\n  {:<24}  {:>18.4g}  {:>16.4g}", layer, largest, gradient);
  }
  return table;
}

}  // namespace

std::unique_ptr<Steps> make_host_steps(const Training& training, const ImageSet& images,
                                       const Normalisation& normalisation) {
  return std::make_unique<HostSteps>(training, images, normalisation);
}

}  // namespace dattn
