// Memory asked for before it is used, a little at a time.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/parallel.h"

namespace dattn {

enum class Access { read, write };

/// Asks for the cache line of a number that is read or written soon.
template <Access kAccess, typename T>
inline void prefetch_line(const T* at) {
  __builtin_prefetch(at, kAccess == Access::write);
}

/// Asks for `elements` numbers in `steps` equal parts, into the second-level cache: what is in use stays in the first.
template <typename T>
class Prefetch {
 public:
  Prefetch(const T* from, std::int64_t elements, std::int64_t steps)
      : next_(from), end_(from + elements), part_(tile_count(elements, std::max<std::int64_t>(1, steps))) {}

  /// For a loop over [0, count) whose part [begin, end) is at work: what the part that follows, of the same length,
  /// needs of `elements` numbers that the loop goes through evenly.
  static Prefetch following(const T* data, std::int64_t elements, std::int64_t begin, std::int64_t end,
                            std::int64_t count, std::int64_t steps) {
    const auto place = [&](std::int64_t i) { return elements * std::min(i, count) / std::max<std::int64_t>(1, count); };
    return {data + place(end), place(2 * end - begin) - place(end), steps};
  }

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
