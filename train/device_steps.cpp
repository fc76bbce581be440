// Training steps on a device: the images resident as bytes, an epoch's plan uploaded at once, one captured graph.
//
// The body of a step reads everything that changes from step to step from small tensors on the device: what happens to
// the images of its batch, their labels, and the numbers of the updates (rates, corrections). For each of them there is
// a table with one row a step of the epoch, and a place that the body copies its row to.
#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include "core/autograd.h"
#include "core/random.h"
#include "core/rows.h"
#include "cuda/enable.h"
#include "cuda/step_graph.h"
#include "datasets/batch_order.h"
#include "train/step_totals.h"

namespace dattn {

namespace {

using Clock = std::chrono::steady_clock;

// One row a step of an epoch: written on the host, uploaded as a table, and taken row by row.
struct Table {
  Tensor host, device;  // [steps, shape of the place]
  Tensor place;         // where the body finds its row

  Table() = default;
  Table(std::int64_t steps, Tensor place_of_rows) : place(std::move(place_of_rows)) {
    std::vector<std::int64_t> sizes = {steps};
    sizes.insert(sizes.end(), place.shape().begin(), place.shape().end());
    host = Tensor::zeros(Shape(sizes), place.dtype());
    device = Tensor::empty(host.shape(), place.dtype(), place.device());
  }
  Tensor row(std::int64_t i) const { return host.slice(i, i + 1).view(place.shape()); }
  void upload() { device.copy_from(host); }
  void take(const Tensor& index) { take_row(device, index, place); }
};

class DeviceSteps final : public Steps {
 public:
  DeviceSteps(const Training& training, const ImageSet& images, const Normalisation& normalisation);

  void run(std::int64_t step) override;
  StepSums sums() override { return totals_.get(); }
  void set_sums(const StepSums& sums) override { totals_.set(sums); }
  double take_seconds() override;

 private:
  void draw(std::int64_t step);
  void draw_batch(Place place);
  void draw_numbers(std::int64_t first, std::int64_t step);
  void upload(std::int64_t step);
  template <typename F>
  void for_each_table(F&& f);
  void body();
  std::vector<bool> trained() const;

  Training training_;
  ImageSet set_;
  std::int64_t steps_per_epoch_, batch_size_;  // steps an epoch
  BatchOrder order_;
  Tensor bytes_, normalised_, batch_;         // uint8 [N,H,W,3], float32 [3,256], [B,H,W,3] in the type of activations
  Table parts_, weights_, labels_, targets_;  // targets_: only where labels are mixed
  std::vector<Table> numbers_;                // one an optimizer, then the averages'
  Tensor index_, step_;                       // int64 []: row of the tables, step of the run
  StepTotals totals_{Device::cuda};
  cuda::StepGraph graph_;
  std::vector<bool> captured_;                // which parameters the captured body trains
  std::int64_t next_ = -1;                    // the step that the tables are drawn for
  std::optional<Clock::time_point> started_;  // first step since the last take_seconds()
};

DeviceSteps::DeviceSteps(const Training& training, const ImageSet& images, const Normalisation& normalisation)
    : training_(training),
      set_(images),
      steps_per_epoch_(images.count() / training.plan.batch_size),
      batch_size_(training.plan.batch_size),
      order_(images.count(), batch_size_, true, training.seed),
      bytes_(images.images.to(Device::cuda)),
      normalised_(normalisation_table(normalisation).to(Device::cuda)),
      batch_(Tensor::empty(images.images.shape().with(0, batch_size_), training.plan.precision, Device::cuda)),
      index_(Tensor::zeros({}, Dtype::int64, Device::cuda)),
      step_(Tensor::zeros({}, Dtype::int64, Device::cuda)) {
  const AugmentOptions& augment = training.plan.augment;
  check_augment(augment, bytes_.size(1), bytes_.size(2));
  const std::int64_t parts = augment.mixup > 0 ? 2 : 1;
  const auto place = [](const Shape& shape, Dtype dtype) { return Tensor::empty(shape, dtype, Device::cuda); };
  parts_ = Table(steps_per_epoch_, place({batch_size_, parts, AugmentPlan::kColumns}, Dtype::int32));
  weights_ = Table(steps_per_epoch_, place({batch_size_, parts}, Dtype::float32));
  labels_ = Table(steps_per_epoch_, place({batch_size_}, Dtype::int64));
  if (parts == 2) targets_ = Table(steps_per_epoch_, place({batch_size_, images.classes()}, Dtype::float32));
  for (const auto& optimizer : training.recipe.optimizers())
    numbers_.emplace_back(steps_per_epoch_, optimizer->numbers());
  if (training.averages) numbers_.emplace_back(steps_per_epoch_, training.averages->numbers());
}

// --- an epoch's plan ---

// Writes the tables of the epoch of `step` on the host, from the row of that step on.
void DeviceSteps::draw(std::int64_t step) {
  const std::int64_t epoch = step / steps_per_epoch_, first = epoch * steps_per_epoch_;
  for (std::int64_t batch = step - first; batch < steps_per_epoch_; ++batch) draw_batch({epoch, batch});
  draw_numbers(first, step);
}

void DeviceSteps::draw_batch(Place place) {
  const auto picks = order_.picks(place);
  AugmentPlan plan{parts_.row(place.batch), weights_.row(place.batch)};
  draw_plan(training_.plan.augment, training_.seed, place.epoch, picks, bytes_.shape(), plan);
  Tensor labels = labels_.row(place.batch);
  take_labels(set_, picks, labels);
  if (targets_.place) {
    Tensor targets = targets_.row(place.batch);
    soft_targets(set_.labels, plan, targets);
  }
}

// The optimizers have counted the steps before `step`.
void DeviceSteps::draw_numbers(std::int64_t first, std::int64_t step) {
  for (std::int64_t s = step; s < first + steps_per_epoch_; ++s) {
    training_.recipe.prepare(s);
    std::size_t table = 0;
    for (const auto& optimizer : training_.recipe.optimizers())
      optimizer->write_numbers(optimizer->steps() + 1 + s - step, numbers_[table++].row(s - first).data<double>());
    if (Ema* averages = training_.averages)
      averages->write_numbers(averages->steps() + 1 + s - step, numbers_[table].row(s - first).data<double>());
  }
}

template <typename F>
void DeviceSteps::for_each_table(F&& f) {
  for (Table* table : {&parts_, &weights_, &labels_, &targets_}) {
    if (table->place) f(*table);
  }
  for (Table& table : numbers_) f(table);
}

void DeviceSteps::upload(std::int64_t step) {
  for_each_table([](Table& table) { table.upload(); });
  index_.copy_from(Tensor::scalar(step % steps_per_epoch_));
  step_.copy_from(Tensor::scalar(step));
}

// --- a step ---

void DeviceSteps::run(std::int64_t step) {
  if (!started_) started_ = Clock::now();
  const bool elsewhere = step != next_;
  if (elsewhere) draw(step);
  if (elsewhere || step % steps_per_epoch_ == 0) upload(step);
  training_.recipe.prepare(step);
  if (auto now = trained(); now != captured_) {
    graph_.reset();
    captured_ = std::move(now);
  }
  set_random_step(training_.seed, static_cast<std::uint64_t>(step));
  graph_.run([this] { body(); });
  for (const auto& optimizer : training_.recipe.optimizers()) optimizer->count_steps(1);
  if (training_.averages) training_.averages->count_steps(1);
  next_ = step + 1;
  if (next_ % steps_per_epoch_ > 0) return;
  draw(next_);  // while the device still works on this epoch
  training_.recipe.prepare(step);
}

void DeviceSteps::body() {
  const RandomStepOnDevice random_step(step_.data<std::int64_t>());
  for_each_table([this](Table& table) { table.take(index_); });
  const RecipePlan& plan = training_.plan;
  augment_forward(bytes_, parts_.place, weights_.place, normalised_, plan.augment.cutout, batch_);
  const Tensor logits = training_.model.forward(batch_);  // [B,classes]
  const Tensor loss =
      cross_entropy(logits, targets_.place ? targets_.place : labels_.place, plan.label_smoothing, plan.reduction);
  backward(loss);
  training_.recipe.update();
  if (training_.averages) training_.averages->update();
  totals_.add(logits, labels_.place, loss, plan.reduction, step_);
  advance(index_);
  advance(step_);
}

std::vector<bool> DeviceSteps::trained() const {
  std::vector<bool> flags;
  for (const FlatGroup& group : training_.recipe.flat().groups()) {
    for (const FlatGroup::Slice& slice : group.slices) flags.push_back(slice.parameter.trainable());
  }
  return flags;
}

double DeviceSteps::take_seconds() {
  if (!started_) return 0;
  cuda::synchronize();
  return std::chrono::duration<double>(Clock::now() - *std::exchange(started_, std::nullopt)).count();
}

}  // namespace

std::unique_ptr<Steps> make_device_steps(const Training& training, const ImageSet& images,
                                         const Normalisation& normalisation) {
  return std::make_unique<DeviceSteps>(training, images, normalisation);
}

}  // namespace dattn
