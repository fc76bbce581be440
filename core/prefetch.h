// Memory asked for before it is used, a little at a time.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/parallel.h"

namespace dattn {

/// Asks for `elements` numbers in `steps` equal parts, into the second-level cache: what is in use stays in the first.
template <typename T>
class Prefetch {
 public:
  Prefetch(const T* from, std::int64_t elements, std::int64_t steps)
      : next_(from), end_(from + elements), part_(tile_count(elements, steps)) {}
  void step() {
    constexpr std::int64_t kLine = 64 / sizeof(T);
    for (const T* to = next_ + std::min<std::int64_t>(part_, end_ - next_); next_ < to; next_ += kLine) {
      __builtin_prefetch(next_, 0, 2);
    }
    next_ = std::min(next_, end_);
  }

 private:
  const T *next_, *end_;
  std::int64_t part_;
};

}  // namespace dattn
