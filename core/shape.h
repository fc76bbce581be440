// The sizes of a tensor's dimensions: a small fixed-capacity list, so that a shape never allocates.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "core/error.h"

namespace dattn {

class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;  ///< rank 0: one element
  Shape(std::initializer_list<std::int64_t> sizes) : Shape(std::span(sizes.begin(), sizes.size())) {}
  explicit Shape(std::span<const std::int64_t> sizes);

  int rank() const { return rank_; }
  /// Size of dimension i; negative i counts from the end.
  std::int64_t operator[](int i) const { return sizes_[index(i)]; }
  std::int64_t& operator[](int i) { return sizes_[index(i)]; }
  /// Number of elements: the product of all sizes, 1 for rank 0.
  std::int64_t elements() const;
  /// Product of all sizes but the last: the rows of the tensor read as a matrix.
  std::int64_t rows() const { return rank_ == 0 ? 1 : leading(rank_ - 1); }
  /// Product of the first n sizes.
  std::int64_t leading(int n) const;
  Shape with(int i, std::int64_t size) const;  ///< a copy whose dimension i has this size

  const std::int64_t* begin() const { return sizes_.data(); }
  const std::int64_t* end() const { return sizes_.data() + rank_; }
  bool operator==(const Shape& other) const;
  std::string text() const;  ///< "[8,32,32,3]"

 private:
  int index(int i) const {
    const int j = i < 0 ? i + rank_ : i;
    if (j < 0 || j >= rank_) [[unlikely]]
      fail("shape {}: no dimension {}", text(), i);  // text() only where it fails
    return j;
  }

  std::array<std::int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};

}  // namespace dattn

template <>
struct fmt::formatter<dattn::Shape> : fmt::formatter<std::string> {
  auto format(const dattn::Shape& shape, fmt::format_context& context) const {
    return fmt::formatter<std::string>::format(shape.text(), context);
  }
};
