// The training loop.
#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/output.h"
#include "core/parallel.h"
#include "cuda/out_of_memory.h"
#include "train/device.h"
#include "train/stop_signals.h"
#include "train/watch.h"

namespace dattn {

namespace {

constexpr std::int64_t kWhiteningImages = 5000;
constexpr std::int64_t kWarmUpSteps = 3;  // a device records the third
constexpr double kEmaDecay = 0.99;
constexpr const char* kUpdates = "updates";  // the count that Ema keeps among its tensors

std::string percent(double fraction) { return fmt::format("{:.2f} %", 100 * fraction); }

}  // namespace

// --- building and restoring ---

Trainer::Trainer(TrainOptions options, const std::vector<std::string>& given)
    : options_(std::move(options)), device_(use_device(options_.device)), folder_(options_) {
  for (const auto& [option, path] : {std::pair("--data", options_.data), {"--out", options_.out}})
    check(is_utf8(path), "{}: expected a path in UTF-8, as checkpoints and records keep it, got other bytes", option);
  if (options_.threads > 0) set_thread_count(options_.threads);
  if (options_.resume) {
    resumed_.emplace(folder_.last());
    refuse_other_options(resumed_->info().options, given);
    const std::string asked = options_.data;
    set_result_options(options_, resumed_->info().options, folder_.last());
    // The images may lie elsewhere by now; restore() sees that they are the same.
    if (std::find(given.begin(), given.end(), "data") != given.end()) options_.data = asked;
  }
  build();
  if (resumed_) restore(*resumed_);
  resumed_.reset();
}

void Trainer::refuse_other_options(const nlohmann::json& saved, const std::vector<std::string>& given) const {
  TrainOptions run;  // with the usual value of what an older run did not know
  set_result_options(run, saved, folder_.last());
  const nlohmann::json asked = result_options(options_), has = result_options(run);
  std::string differences;
  for (const std::string& name : given) {
    if (name == "data" || !asked.contains(name) || asked[name] == has[name]) continue;
    differences += fmt::format("\n  --{}: the run has {}, asked for {}", name, has[name].dump(), asked[name].dump());
  }
  check(differences.empty(), "resume: other options than those of the run in {}:{}\nhint: leave them out",
        folder_.path(), differences);
}

void Trainer::build() {
  LoadOptions load;
  load.report = [](const std::string& line) { print_output("{}\n", line); };
  data_ = load_data(options_.data, load);
  check(is_utf8(data_.name), "--data: expected a folder whose name is UTF-8, as records keep it, got other bytes");
  fingerprint_ = fingerprint(data_);
  const std::int64_t images = data_.train.count();
  check(options_.holdout < images, "--holdout: expected fewer than the {} training images, got {}", images,
        options_.holdout);
  if (options_.holdout > 0) std::tie(data_.train, held_out_) = holdout(data_.train, options_.holdout, options_.seed);

  plan_ = plan_recipe(options_, device_);
  options_.epochs = plan_.epochs;
  options_.batch_size = plan_.batch_size;
  options_.precision = name(plan_.precision);
  steps_per_epoch_ = data_.train.count() / plan_.batch_size;
  check(steps_per_epoch_ > 0, "--batch-size: {} images a step, but only {} to train on", plan_.batch_size,
        data_.train.count());
  const double exact_steps = plan_.epochs * static_cast<double>(steps_per_epoch_);
  const double steps = std::max(1.0, std::ceil(exact_steps * (1 - 1e-12)));  // 1.1 * 50 is a little more than 55
  check(steps <= static_cast<double>(kMostSteps), "--epochs: {:g} epochs of {} steps are more than {} steps",
        plan_.epochs, steps_per_epoch_, kMostSteps);
  total_steps_ = static_cast<std::int64_t>(steps);

  if (options_.warm_up) warm_up();
  make_network();
  for (ImageSet* set : {&data_.test, &held_out_}) {
    if (set->images) set->images = set->images.to(device_);
  }
}

void Trainer::make_network() {
  Random random(options_.seed, Purpose::init);
  model_ = make_model(model_options(options_, data_.train.classes()), random);
  model_->init_from_data(normalise(draw_images(data_.train, kWhiteningImages, options_.seed), data_.normalisation));
  move_to(*model_, device_);
  recipe_ = make_recipe(options_, plan_, *model_, total_steps_, steps_per_epoch_);
  if (options_.ema)
    averages_ =
        std::make_unique<Ema>(recipe_->flat(), buffers(*model_), EmaOptions{.decay = kEmaDecay, .warm_up = true});
  const auto make_steps = device_ == Device::cpu ? make_host_steps : make_device_steps;
  steps_ = make_steps({*model_, *recipe_, averages_.get(), plan_, options_.seed}, data_.train, data_.normalisation);
}

// Memory, the plans of libraries, and on a device kernels and the recording of a step are then there; the network that
// has had these steps goes.
void Trainer::warm_up() {
  make_network();
  for (std::int64_t i = 0; i < std::min(kWarmUpSteps, total_steps_); ++i) train_step();
  gather();
  steps_.reset();
  averages_.reset();
  recipe_.reset();
  model_.reset();
  state_ = {};
}

void Trainer::restore(const Checkpoint& checkpoint) {
  const CheckpointInfo& info = checkpoint.info();
  const bool same_data = info.class_names == data_.train.class_names &&
                         info.normalisation.mean == data_.normalisation.mean &&
                         info.normalisation.std == data_.normalisation.std &&
                         (info.fingerprint.empty() || info.fingerprint == fingerprint_);
  check(same_data,
        "resume: the images of {} are not those that the run in {} was made with\nhint: give --data their folder",
        options_.data, folder_.path());
  checkpoint.load("model.", state_dict(*model_));
  checkpoint.load("optimizer.", optimizer_tensors());
  checkpoint.load("ema.", averaged_tensors());
  try {
    checkpoint.info().state.get_to(state_);
  } catch (const nlohmann::json::exception& e) {
    fail("resume: the state in {} cannot be read ({})", folder_.last(), e.what());
  }
  check(state_.step >= 0 && state_.step <= total_steps_, "resume: {} claims step {}, the run has {} steps",
        folder_.last(), state_.step, total_steps_);
  const bool rows_rise = std::adjacent_find(state_.rows.begin(), state_.rows.end(), [](const auto& a, const auto& b) {
                           return a.step >= b.step;
                         }) == state_.rows.end();
  check(state_.correct >= 0 && state_.correct <= state_.images && rows_rise &&
            (state_.rows.empty() || state_.rows.back().step <= state_.step),
        "resume: the state in {} contradicts itself: {} of {} images right, rows out of order or beyond step {}",
        folder_.last(), state_.correct, state_.images, state_.step);
  // A row that --max-steps wrote in the middle of an epoch gives way to the epoch's own.
  if (!state_.rows.empty() && state_.rows.back().step % steps_per_epoch_ != 0 &&
      state_.rows.back().step != total_steps_) {
    state_.rows.pop_back();
  }
  steps_->set_sums({state_.loss, state_.correct});
  saved_step_ = state_.step;
}

std::vector<NamedTensor> Trainer::averaged_tensors() {
  if (!averages_) return {};
  auto tensors = state_dict(*model_);
  for (const auto& [name, average] : averages_->state()) {
    const auto same = std::find_if(tensors.begin(), tensors.end(),
                                   [&wanted = name](const NamedTensor& t) { return t.name == wanted; });
    if (same != tensors.end()) same->tensor = average;
  }
  return tensors;
}

std::vector<NamedTensor> Trainer::optimizer_tensors() {
  auto tensors = recipe_->state();
  if (averages_) {
    for (const auto& [name, tensor] : averages_->state()) {
      if (name == kUpdates) tensors.push_back({"ema.updates", tensor});
    }
  }
  return tensors;
}

// --- one step ---

void Trainer::train_step() {
  try {
    steps_->run(state_.step);
  } catch (const NonFiniteLoss& lost) {
    report(lost);
  } catch (const cuda::OutOfMemory& full) {
    if (plan_.batch_size == 1) throw;
    fail("{}\nhint: try --batch-size {} in place of {}", full.shortage, plan_.batch_size / 2, plan_.batch_size);
  }
  state_.lr = recipe_->learning_rate();
  state_.images += plan_.batch_size;
  ++state_.step;
}

void Trainer::gather() {
  try {
    const auto [loss, correct] = steps_->sums();
    state_.loss = loss;
    state_.correct = correct;
  } catch (const NonFiniteLoss& lost) {
    report(lost);
  }
  const double seconds = steps_->take_seconds();
  state_.seconds += seconds;
  state_.epoch_seconds += seconds;
}

void Trainer::report(const NonFiniteLoss& lost) const {
  fail("the loss is {} at step {}, learning rate {:.4g}{}\nhint: try a smaller --lr-scale; {}", std::abs(lost.loss),
       lost.step + 1, recipe_->learning_rate(), lost.layers,
       saved_step_ < 0 ? "nothing was saved yet" : fmt::format("{} holds step {}", folder_.last(), saved_step_));
}

// --- the end of an epoch ---

void Trainer::close_epoch(bool whole) {
  progress_.reset();
  gather();
  const auto row = evaluate_epoch();
  if (!row) return;
  print_row(*row);
  const bool best =
      whole && row->held_out && std::none_of(state_.rows.begin(), state_.rows.end(), [&](const MetricsRow& r) {
        return r.held_out && r.held_out->accuracy >= row->held_out->accuracy;
      });
  state_.rows.push_back(*row);
  if (whole) {
    state_.loss = state_.epoch_seconds = 0;
    state_.correct = state_.images = 0;
    steps_->set_sums({});
  }
  // The best first: after a kill in between, the epoch is run again, to the same bits.
  if (best) save(folder_.best());
  save(folder_.last());
  folder_.write_metrics(state_.rows);
}

std::optional<MetricsRow> Trainer::evaluate_epoch() {
  std::optional<WithAverages> averaged;
  if (averages_) averaged.emplace(*averages_);
  EvaluateOptions how;
  how.tta = true;
  how.stop = stop_asked;
  how.precision = plan_.precision;
  std::optional<TestFigures> figures;
  if (test_is_due()) {
    const auto test = evaluate(*model_, data_.test, data_.normalisation, how);
    if (!test) return std::nullopt;
    figures = {test->loss, test->accuracy, *test->accuracy_tta};
  }
  std::optional<HeldOutFigures> held_out;
  if (held_out_.images) {
    how.tta = false;
    const auto chosen_by = evaluate(*model_, held_out_, data_.normalisation, how);
    if (!chosen_by) return std::nullopt;
    held_out = {chosen_by->loss, chosen_by->accuracy};
  }
  const auto n = static_cast<double>(state_.images);
  return MetricsRow{.epoch = (state_.step - 1) / steps_per_epoch_ + 1,
                    .step = state_.step,
                    .seconds = state_.seconds,
                    .lr = state_.lr,
                    .train_loss = state_.loss / n,
                    .train_accuracy = static_cast<double>(state_.correct) / n,
                    .test = figures,
                    .images_per_second = n / state_.epoch_seconds,
                    .held_out = held_out};
}

void Trainer::print_row(const MetricsRow& row) const {
  if (row.held_out)
    print_output("held-out images: loss {:.4f} accuracy {}\n", row.held_out->loss, percent(row.held_out->accuracy));
  const std::string test = row.test ? fmt::format("test: loss {:.4f} accuracy {:>7} augmented {:>7}  ", row.test->loss,
                                                  percent(row.test->accuracy), percent(row.test->accuracy_tta))
                                    : std::string();
  print_output("epoch {:>3}  step {:>6}  train: loss {:.4f} accuracy {:>7}  {}{:.0f} images/s  {}\n", row.epoch,
               row.step, row.train_loss, percent(row.train_accuracy), test, row.images_per_second,
               duration(row.seconds));
  std::fflush(stdout);
}

bool Trainer::test_is_due() const {
  const std::int64_t epochs_done = (state_.step - 1) / steps_per_epoch_ + 1;
  return epochs_done % options_.eval_every == 0 || !at_epoch_end() || state_.step == last_step();
}

void Trainer::save(const std::string& path) {
  gather();
  const auto model = state_dict(*model_);
  const std::string lost = first_not_finite(model);
  check(lost.empty(),
        "{} is not finite after step {}, learning rate {:.4g}, so nothing is saved\nhint: try a smaller --lr-scale",
        lost, state_.step, state_.lr);
  const CheckpointInfo info{model_options(options_, data_.train.classes()),
                            data_.train.class_names,
                            data_.normalisation,
                            fingerprint_,
                            result_options(options_),
                            state_};
  folder_.put([&] { write_checkpoint(path, info, model, averaged_tensors(), optimizer_tensors()); });
  saved_step_ = state_.step;
}

// --- the run ---

int Trainer::run() {
  if (state_.step == total_steps_ && state_.images == 0) {
    folder_.write_metrics(state_.rows);  // which a kill may have come before
    print_output("the run in {} is finished: {} of {} steps\n", folder_.path(), state_.step, total_steps_);
    return 0;
  }
  if (state_.step >= last_step() && state_.images == 0) {
    print_output("the run in {} is at step {} already: nothing to do up to --max-steps {}\n", folder_.path(),
                 state_.step, options_.max_steps);
    return 0;
  }
  folder_.make();
  options_.out = folder_.path();
  heed_stop_signals();
  write_run_json();
  print_plan();
  folder_.write_metrics(state_.rows);
  while (!stop_asked()) {
    if (state_.images > 0 && at_epoch_end()) {
      close_epoch(true);
    } else if (state_.step < last_step()) {
      begin_progress();
      train_step();
      show_progress();
      if (options_.save_every > 0 && state_.step % options_.save_every == 0) save(folder_.last());
    } else {
      break;
    }
  }
  if (!stop_asked() && state_.images > 0) close_epoch(false);
  progress_.reset();
  if (stop_asked()) {
    save(folder_.last());
    print_output("stopped by a signal; {} holds step {} of {}\ngo on with: ./run train --out {} --resume{}\n",
                 folder_.last(), state_.step, total_steps_, folder_.path(), resume_options(options_));
    return kInterrupted;
  }
  print_end();
  return 0;
}

void Trainer::begin_progress() {
  if (progress_) return;
  const bool at_once = !std::exchange(has_shown_, true);  // to show a figure asks for the sums, and waits for a device
  progress_ =
      std::make_unique<Progress>(epoch() + 1, epochs(), state_.step, total_steps_, at_once, stdout_is_terminal());
}

void Trainer::show_progress() {
  if (!progress_->due(state_.step)) return;
  gather();
  const auto images = static_cast<double>(state_.images);
  progress_->update(state_.step, state_.loss / images, static_cast<double>(state_.correct) / images,
                    images / state_.epoch_seconds);
}

void Trainer::write_run_json() const {
  folder_.write_run(all_options(options_), {{"seed", options_.seed},
                                            {"device", describe(device_)},
                                            {"threads", thread_count()},
                                            {"data",
                                             {{"name", data_.name},
                                              {"train_images", data_.train.count()},
                                              {"held_out_images", held_out_.images ? held_out_.count() : 0},
                                              {"test_images", data_.test.count()},
                                              {"classes", data_.train.class_names}}},
                                            {"parameters", parameter_count(*model_)},
                                            {"steps", total_steps_},
                                            {"steps_per_epoch", steps_per_epoch_}});
}

void Trainer::print_plan() const {
  std::string attention;
  if (has_attention(options_.model)) {
    attention = " with attention " + options_.attention;
    if (options_.attention != "none")
      attention += fmt::format(" on maps of {}", fmt::join(options_.attention_maps, ", "));
    if (options_.attention_stride > 1) attention += fmt::format(", stride {}", options_.attention_stride);
  }
  print_output("data        {} ({} training, {} test images, {} classes)\n", data_.name, data_.train.count(),
               data_.test.count(), data_.train.classes());
  print_output("model       {}{}, {} parameters\n", options_.model, attention, parameter_count(*model_));
  print_output("schedule    {} steps of {} images, {:g} epochs, seed {}\n", total_steps_, plan_.batch_size,
               plan_.epochs, options_.seed);
  print_output("machine     {}, activations in {}\n", describe(device_), name(plan_.precision));
  print_output("folder      {}{}\n", folder_.path(),
               state_.step > 0 ? fmt::format(", going on from step {}", state_.step) : "");
  std::fflush(stdout);
}

void Trainer::print_end() const {
  if (!state_.rows.empty() && state_.rows.back().test) {
    const MetricsRow& row = state_.rows.back();
    print_output("test accuracy {}, {} with test-time augmentation, after {} of {} steps and {} of training\n",
                 percent(row.test->accuracy), percent(row.test->accuracy_tta), row.step, total_steps_,
                 duration(row.seconds));
  }
  print_output("checkpoint    {}\ntry next      ./run eval --checkpoint {} --data {}\n", folder_.last(), folder_.last(),
               options_.data);
}

}  // namespace dattn
