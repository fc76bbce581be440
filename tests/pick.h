// Sizes and choices of seeded random tests, the same on every machine.
#pragma once

#include <cstdint>
#include <random>

namespace dattn::test {

class Pick {
 public:
  explicit Pick(std::uint32_t seed) : random_(seed) {}
  /// One of [least, most].
  std::int64_t operator()(std::int64_t least, std::int64_t most) {
    return least + static_cast<std::int64_t>(random_() % static_cast<std::uint32_t>(most - least + 1));
  }
  /// The same, mostly of the smaller half.
  std::int64_t small(std::int64_t least, std::int64_t most) {
    return (*this)(least, (*this)(0, 3) > 0 ? (least + most) / 2 : most);
  }

 private:
  std::mt19937 random_;
};

}  // namespace dattn::test
