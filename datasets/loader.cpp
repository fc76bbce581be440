// The loader: its order, its two buffers, and the thread that fills one while the other is used.
#include "datasets/loader.h"

#include <iterator>
#include <utility>

#include "core/parallel.h"

namespace dattn {

LoaderOptions training_options(std::int64_t batch_size, std::uint64_t seed, const AugmentOptions& augment) {
  return {.batch_size = batch_size, .shuffle = true, .drop_last = true, .seed = seed, .augment = augment};
}

Loader::Loader(ImageSet set, const Normalisation& normalisation, const LoaderOptions& options)
    : set_(std::move(set)),
      options_(options),
      table_(normalisation_table(normalisation)),
      order_(set_.count(), options.batch_size, options.shuffle, options.seed) {
  const std::int64_t n = set_.count(), size = options_.batch_size;
  check(size >= 1, "loader: expected a batch size of at least 1, got {}", size);
  check(n >= 1, "loader: expected images, got none");
  check(set_.images.rank() == 4 && set_.images.size(0) == n && set_.images.size(3) == 3,
        "loader: expected images [{},H,W,3] for {} labels, got {}", n, n, set_.images.shape());
  check(!options_.drop_last || n >= size, "loader: a batch of {} images needs as many, the set has {}", size, n);
  check_augment(options_.augment, set_.images.size(1), set_.images.size(2));
  batches_ = options_.drop_last ? n / size : tile_count(n, size);
  if (options_.prefetch) thread_ = std::thread([this] { work(); });
}

Loader::~Loader() {
  if (!options_.prefetch) return;
  wait();
  {
    std::scoped_lock lock(mutex_);
    state_ = State::stopping;
  }
  changed_.notify_all();
  thread_.join();
}

void Loader::seek(Place place) {
  check(place.epoch >= 0 && place.batch >= 0 && place.batch < batches_,
        "loader: expected an epoch from 0 and a batch of 0 to {}, got epoch {}, batch {}", batches_ - 1, place.epoch,
        place.batch);
  place_ = place;
}

const Batch& Loader::next() {
  if (options_.prefetch) {
    take(place_);
  } else {
    clear_spare();
    fill_spare(place_);
  }
  given_ = 1 - given_;
  place_ = place_.batch + 1 < batches_ ? Place{place_.epoch, place_.batch + 1} : Place{place_.epoch + 1, 0};
  if (options_.prefetch) ask(place_);
  return buffers_[given_].batch;
}

// Leaves to whoever kept a tensor of the batch its memory. In the caller's thread, which is the one that lets go of
// tensors.
void Loader::clear_spare() {
  Buffer& buffer = spare();
  buffer.batch = {};
  for (Tensor* x : {&buffer.images, &buffer.labels, &buffer.targets}) {
    if (*x && !x->unique()) *x = {};
  }
}

void Loader::fill_spare(Place place) {
  const auto picks = order_.picks(place);
  const std::int64_t size = options_.batch_size, n = std::ssize(picks);

  Buffer& buffer = spare();
  draw_plan(options_.augment, options_.seed, place.epoch, picks, set_.images.shape(), buffer.plan);
  reuse(buffer.images, set_.images.shape().with(0, size), Dtype::float32);
  buffer.batch.images = buffer.images.slice(0, n);
  augment_forward(set_.images, buffer.plan.parts, buffer.plan.weights, table_, options_.augment.cutout,
                  buffer.batch.images);

  reuse(buffer.labels, {size}, Dtype::int64);
  buffer.batch.labels = buffer.labels.slice(0, n);
  take_labels(set_, picks, buffer.batch.labels);
  if (options_.augment.mixup > 0) {
    reuse(buffer.targets, {size, set_.classes()}, Dtype::float32);
    buffer.batch.targets = buffer.targets.slice(0, n);
    soft_targets(set_.labels, buffer.plan, buffer.batch.targets);
  }
  buffer.batch.place = place;
}

void Loader::ask(Place place) {
  clear_spare();
  {
    std::scoped_lock lock(mutex_);
    asked_ = place;
    error_ = nullptr;
    state_ = State::asked;
  }
  changed_.notify_all();
}

void Loader::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return state_ != State::asked; });
}

// Returns when the spare buffer holds the batch of this place, which may have been prepared already.
void Loader::take(Place place) {
  wait();
  if (state_ == State::idle || asked_ != place) {
    ask(place);
    wait();
  }
  state_ = State::idle;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Loader::work() {
  const SerialScope leave_the_pool_to_training;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return state_ == State::asked || state_ == State::stopping; });
    if (state_ == State::stopping) return;
    lock.unlock();
    std::exception_ptr error;
    try {
      fill_spare(asked_);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    error_ = error;
    state_ = State::ready;
    changed_.notify_all();
  }
}

}  // namespace dattn
