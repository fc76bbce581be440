// Shape: construction, products, text.
#include "core/shape.h"

#include <algorithm>

namespace dattn {

Shape::Shape(std::span<const std::int64_t> sizes) : rank_(static_cast<int>(sizes.size())) {
  check(sizes.size() <= kMaxRank, "shape: at most {} dimensions, got {}", kMaxRank, sizes.size());
  std::copy(sizes.begin(), sizes.end(), sizes_.begin());
  for (auto size : sizes) check(size >= 0, "shape {}: sizes must not be negative", *this);
}

std::int64_t Shape::leading(int n) const {
  std::int64_t product = 1;
  for (int i = 0; i < n; ++i) {
    check(!__builtin_mul_overflow(product, sizes_[i], &product), "shape {}: too many elements for 64 bits", *this);
  }
  return product;
}

std::int64_t Shape::elements() const { return leading(rank_); }

Shape Shape::with(int i, std::int64_t size) const {
  Shape copy = *this;
  copy[i] = size;
  return copy;
}

bool Shape::operator==(const Shape& other) const {
  return rank_ == other.rank_ && std::equal(begin(), end(), other.begin());
}

std::string Shape::text() const { return fmt::format("[{}]", fmt::join(begin(), end(), ",")); }

}  // namespace dattn
