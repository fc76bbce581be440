// Sums over many things by all threads: a fixed number of parts, each with a sum of its own, which are added in order.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/memory.h"
#include "core/parallel.h"

namespace dattn {

/// The length of a part, in whole multiples of `unit`, where `count` things make at most `most` parts.
constexpr std::int64_t part_length(std::int64_t count, std::int64_t unit, std::int64_t most) {
  return unit * std::max<std::int64_t>(1, tile_count(tile_count(count, unit), most));
}

/// The partial sums of a loop, `size` numbers each.
template <typename T>
class PartialSums {
 public:
  PartialSums(std::int64_t count, std::int64_t part, std::int64_t size)
      : count_(count),
        part_(part),
        size_(size),
        parts_(tile_count(count, part)),
        sums_(static_cast<std::size_t>(parts_ * size)) {}

  /// Calls add(begin, end, sum) for every part of the loop, on all threads; `sum` is zero before.
  template <typename F>
  void gather(F&& add) {
    parallel_for(count_, part_, [&](std::int64_t begin, std::int64_t end) {
      T* sum = part(begin / part_);
      std::fill_n(sum, size_, T(0));
      add(begin, end, sum);
    });
  }

  std::int64_t parts() const { return parts_; }
  std::int64_t size() const { return size_; }
  T* part(std::int64_t i) { return sums_.data() + i * size_; }

  /// to [rows,columns] += all sums, whose rows lie `step` apart.
  void add_to(T* to, std::int64_t rows, std::int64_t columns, std::int64_t step) {
    constexpr std::int64_t kTogether = 4096;
    parallel_for(rows, std::max<std::int64_t>(1, kTogether / step), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        for (std::int64_t p = 0; p < parts_; ++p) {
          const T* from = part(p) + r * step;
          for (std::int64_t c = 0; c < columns; ++c) to[r * columns + c] += from[c];
        }
      }
    });
  }

 private:
  std::int64_t count_, part_, size_, parts_;
  Scratch<T> sums_;
};

}  // namespace dattn
