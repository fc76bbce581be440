// Which images the batches of each epoch hold.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace dattn {

/// Where in the data a run stands: batch `batch` of epoch `epoch`, both from 0.
struct Place {
  std::int64_t epoch = 0, batch = 0;
  bool operator==(const Place&) const = default;
};

/// Every image once an epoch: in order, or shuffled anew each epoch by (seed, epoch).
class BatchOrder {
 public:
  BatchOrder(std::int64_t images, std::int64_t batch_size, bool shuffle, std::uint64_t seed);

  /// The images of a batch, fewer than batch_size where the epoch ends; valid until the next call.
  std::span<const std::int64_t> picks(Place place);

 private:
  std::int64_t batch_size_;
  bool shuffle_;
  std::uint64_t seed_;
  std::vector<std::int64_t> order_;  // of epoch epoch_
  std::int64_t epoch_ = -1;
};

}  // namespace dattn
