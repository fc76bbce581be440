// Nests of loops over two tensors: what permute and copies of boxes run through, on any device.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "core/shape.h"

namespace dattn {

/// Steps, in elements, of each dimension.
inline std::array<std::int64_t, Shape::kMaxRank> steps_of(const Shape& shape) {
  std::array<std::int64_t, Shape::kMaxRank> steps{};
  std::int64_t step = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    steps[static_cast<std::size_t>(i)] = step;
    step *= shape[i];
  }
  return steps;
}

/// One loop of a copy: `size` elements, so far apart in x and in y.
struct Loop {
  std::int64_t size = 1, x_step = 1, y_step = 1;
};

/// A nest of loops, outermost first.
struct Loops {
  std::array<Loop, Shape::kMaxRank> loops{};
  int count = 0;

  const Loop& operator[](int i) const { return loops[static_cast<std::size_t>(i)]; }

  /// Adds an inner loop, as part of the last where the two together run through x and y evenly.
  void push(Loop loop) {
    if (loop.size == 1) return;
    Loop* last = count > 0 ? &loops[static_cast<std::size_t>(count - 1)] : nullptr;
    if (last && last->x_step == loop.size * loop.x_step && last->y_step == loop.size * loop.y_step) {
      *last = {last->size * loop.size, loop.x_step, loop.y_step};
    } else {
      loops[static_cast<std::size_t>(count++)] = loop;
    }
  }

  /// Takes loop i out.
  Loop take(int i) {
    const Loop loop = (*this)[i];
    std::copy(loops.begin() + i + 1, loops.begin() + count, loops.begin() + i);
    --count;
    return loop;
  }

  std::int64_t turns() const {
    std::int64_t product = 1;
    for (int i = 0; i < count; ++i) product *= (*this)[i].size;
    return product;
  }

  /// Offsets in x and y at the given turn.
  std::pair<std::int64_t, std::int64_t> offsets(std::int64_t turn) const {
    std::int64_t x = 0, y = 0;
    for (int i = count - 1; i >= 0; --i) {
      const Loop& loop = (*this)[i];
      x += turn % loop.size * loop.x_step;
      y += turn % loop.size * loop.y_step;
      turn /= loop.size;
    }
    return {x, y};
  }
};

/// The loops of y = permute(x, order).
inline Loops permute_loops(const Shape& x, const Shape& order, const Shape& y) {
  const auto x_steps = steps_of(x), y_steps = steps_of(y);
  Loops loops;
  for (int i = 0; i < y.rank(); ++i) {
    loops.push({y[i], x_steps[static_cast<std::size_t>(order[i])], y_steps[static_cast<std::size_t>(i)]});
  }
  return loops;
}

/// The loops over a box of `size` elements, and its first element's offsets in x and y.
struct BoxLoops {
  Loops loops;
  std::int64_t x_first = 0, y_first = 0;

  BoxLoops(const Shape& x, const Shape& x_begin, const Shape& y, const Shape& y_begin, const Shape& size) {
    const auto x_steps = steps_of(x), y_steps = steps_of(y);
    for (int i = 0; i < size.rank(); ++i) {
      const auto at = static_cast<std::size_t>(i);
      loops.push({size[i], x_steps[at], y_steps[at]});
      x_first += x_begin[i] * x_steps[at];
      y_first += y_begin[i] * y_steps[at];
    }
  }
};

/// Calls f with an unsigned type as large as an element.
template <typename F>
void dispatch_size(std::size_t bytes, F&& f) {
  switch (bytes) {
    case 1:
      return f.template operator()<std::uint8_t>();
    case 2:
      return f.template operator()<std::uint16_t>();
    case 4:
      return f.template operator()<std::uint32_t>();
    default:
      return f.template operator()<std::uint64_t>();
  }
}

/// A tensor seen from one of its dimensions: [outer, n, inner].
struct Split {
  std::int64_t outer, n, inner;
  Split(const Shape& shape, int dim) : outer(shape.leading(dim)), n(shape[dim]), inner(1) {
    for (int i = dim + 1; i < shape.rank(); ++i) inner *= shape[i];
  }
};

}  // namespace dattn
