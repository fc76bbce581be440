// The order of images, epoch by epoch.
#include "datasets/batch_order.h"

#include <algorithm>
#include <numeric>

#include "core/random.h"

namespace dattn {

BatchOrder::BatchOrder(std::int64_t images, std::int64_t batch_size, bool shuffle, std::uint64_t seed)
    : batch_size_(batch_size), shuffle_(shuffle), seed_(seed), order_(static_cast<std::size_t>(images)) {
  std::iota(order_.begin(), order_.end(), 0);
}

std::span<const std::int64_t> BatchOrder::picks(Place place) {
  if (shuffle_ && place.epoch != epoch_) {
    permute(Random(seed_, Purpose::shuffle, static_cast<std::uint64_t>(place.epoch)), order_);
    epoch_ = place.epoch;
  }
  const std::span<const std::int64_t> all(order_);
  const auto first = static_cast<std::size_t>(place.batch * batch_size_);
  return all.subspan(first, std::min(static_cast<std::size_t>(batch_size_), all.size() - first));
}

}  // namespace dattn
