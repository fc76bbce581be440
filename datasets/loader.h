// Batches in a seeded order: shuffled by epoch, augmented, and prepared one ahead by a thread.
#pragma once

#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "datasets/augment.h"
#include "datasets/batch_order.h"

namespace dattn {

struct LoaderOptions {
  std::int64_t batch_size = 1;
  bool shuffle = false;    ///< a new order each epoch, by (seed, epoch)
  bool drop_last = false;  ///< leave out the last batch of an epoch where it is not full
  bool prefetch = true;    ///< prepare the next batch in a thread of its own while this one is used
  std::uint64_t seed = 0;
  AugmentOptions augment{};
};

/// For training: shuffled, without the last incomplete batch. For evaluation the defaults: every image once, in order,
/// plain.
LoaderOptions training_options(std::int64_t batch_size, std::uint64_t seed, const AugmentOptions& augment = {});

struct Batch {
  Tensor images;   ///< float32 [B,H,W,3], normalised
  Tensor labels;   ///< int64 [B]
  Tensor targets;  ///< float32 [B,classes] with mixup, else undefined
  Place place;
};

/// Gives batch after batch, epoch after epoch, without end. A batch depends on (options, place) alone: not on threads,
/// prefetching, or what was given before.
class Loader {
 public:
  /// Error for a set without images, a batch size below 1, a set smaller than a batch with drop_last, and augmentation
  /// that does not fit the images.
  Loader(ImageSet set, const Normalisation& normalisation, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  std::int64_t batches_per_epoch() const { return batches_; }
  /// The next batch, valid until the one after it is asked for (tensors kept longer stay valid: their memory is then
  /// not reused). Rethrows what went wrong in the thread.
  const Batch& next();
  /// The place of the batch that next() gives.
  Place place() const { return place_; }
  /// Goes on from there; Error for a place that does not exist.
  void seek(Place place);

 private:
  struct Buffer {
    Tensor images, labels, targets;  // of a full batch; the batch's own tensors are views of them
    AugmentPlan plan;
    Batch batch;
  };

  Buffer& spare() { return buffers_[1 - given_]; }
  void clear_spare();
  void fill_spare(Place place);
  void ask(Place place);
  void wait();
  void take(Place place);
  void work();

  ImageSet set_;
  LoaderOptions options_;
  Tensor table_;  // float32 [3,256]
  std::int64_t batches_ = 0;
  BatchOrder order_;

  Place place_;
  Buffer buffers_[2];
  int given_ = 0;  // the buffer that next() gave out last

  // Shared with the thread.
  enum class State { idle, asked, ready, stopping };
  std::mutex mutex_;
  std::condition_variable changed_;
  State state_ = State::idle;
  Place asked_;
  std::exception_ptr error_;
  std::thread thread_;
};

}  // namespace dattn
