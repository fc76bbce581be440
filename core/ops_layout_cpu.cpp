// CPU kernels of the basic operations that move elements: permute and the copy of a box. One instance for each size of
// element.
#include <algorithm>
#include <array>
#include <cstring>

#include "core/ops.h"
#include "core/parallel.h"

namespace dattn {

namespace {

constexpr std::int64_t kTile = 16384;  // elements a tile

template <typename F>
void dispatch_size(Dtype dtype, F&& f) {
  switch (size_of(dtype)) {
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

// Steps, in elements, of each dimension.
std::array<std::int64_t, Shape::kMaxRank> steps_of(const Shape& shape) {
  std::array<std::int64_t, Shape::kMaxRank> steps{};
  std::int64_t step = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    steps[static_cast<std::size_t>(i)] = step;
    step *= shape[i];
  }
  return steps;
}

// One loop of a copy: `size` elements, so far apart in x and in y.
struct Loop {
  std::int64_t size = 1, x_step = 1, y_step = 1;
};

// A nest of loops, outermost first.
struct Loops {
  std::array<Loop, Shape::kMaxRank> loops{};
  int count = 0;

  // Adds an inner loop, as part of the last where the two together run through x and y evenly.
  void push(Loop loop) {
    if (loop.size == 1) return;
    Loop* last = count > 0 ? &loops[static_cast<std::size_t>(count - 1)] : nullptr;
    if (last && last->x_step == loop.size * loop.x_step && last->y_step == loop.size * loop.y_step) {
      *last = {last->size * loop.size, loop.x_step, loop.y_step};
    } else {
      loops[static_cast<std::size_t>(count++)] = loop;
    }
  }

  // Takes loop i out.
  Loop take(int i) {
    const Loop loop = loops[static_cast<std::size_t>(i)];
    std::copy(loops.begin() + i + 1, loops.begin() + count, loops.begin() + i);
    --count;
    return loop;
  }

  std::int64_t turns() const {
    std::int64_t product = 1;
    for (int i = 0; i < count; ++i) product *= loops[static_cast<std::size_t>(i)].size;
    return product;
  }

  // Offsets in x and y at the given turn.
  std::pair<std::int64_t, std::int64_t> offsets(std::int64_t turn) const {
    std::int64_t x = 0, y = 0;
    for (int i = count - 1; i >= 0; --i) {
      const Loop& loop = loops[static_cast<std::size_t>(i)];
      x += turn % loop.size * loop.x_step;
      y += turn % loop.size * loop.y_step;
      turn /= loop.size;
    }
    return {x, y};
  }
};

// The innermost loop runs evenly through both.
template <typename T>
void copy_runs(const Loops& outer, std::int64_t run, const T* x, T* y) {
  parallel_for(outer.turns(), std::max<std::int64_t>(1, kTile / std::max<std::int64_t>(1, run)),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t turn = begin; turn < end; ++turn) {
                   const auto [ox, oy] = outer.offsets(turn);
                   std::memcpy(y + oy, x + ox, static_cast<std::size_t>(run) * sizeof(T));
                 }
               });
}

// `across` is even in x, `along` in y: squares small enough that the lines they touch stay in the L1 cache.
template <typename T>
void copy_transposed(const Loops& outer, Loop across, Loop along, const T* x, T* y) {
  constexpr std::int64_t kSquare = 16;
  const std::int64_t strips = tile_count(across.size, kSquare);
  const std::int64_t tile = std::max<std::int64_t>(1, kTile / (kSquare * along.size));
  parallel_for(outer.turns() * strips, tile, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const auto [ox, oy] = outer.offsets(task / strips);
      const std::int64_t a0 = task % strips * kSquare, a1 = std::min(across.size, a0 + kSquare);
      for (std::int64_t b0 = 0; b0 < along.size; b0 += kSquare) {
        const std::int64_t b1 = std::min(along.size, b0 + kSquare);
        for (std::int64_t a = a0; a < a1; ++a) {
          for (std::int64_t b = b0; b < b1; ++b) y[oy + a * across.y_step + b] = x[ox + a + b * along.x_step];
        }
      }
    }
  });
}

void permute_forward_cpu(const Tensor& x, const Shape& order, Tensor& y) {
  if (y.elements() == 0) return;
  const auto x_steps = steps_of(x.shape()), y_steps = steps_of(y.shape());
  Loops loops;
  for (int i = 0; i < y.rank(); ++i) {
    loops.push({y.size(i), x_steps[static_cast<std::size_t>(order[i])], y_steps[static_cast<std::size_t>(i)]});
  }
  const Loop along = loops.count > 0 ? loops.take(loops.count - 1) : Loop{};
  dispatch_size(x.dtype(), [&]<typename T>() {
    const T* px = reinterpret_cast<const T*>(x.raw());
    T* py = reinterpret_cast<T*>(y.raw());
    if (along.x_step == 1) return copy_runs(loops, along.size, px, py);
    int even = 0;  // the loop that is even in x
    while (loops.loops[static_cast<std::size_t>(even)].x_step != 1) ++even;
    Loops outer = loops;
    const Loop across = outer.take(even);
    copy_transposed(outer, across, along, px, py);
  });
}

void copy_box_cpu(const Tensor& x, const Shape& x_begin, Tensor& y, const Shape& y_begin, const Shape& size) {
  if (size.elements() == 0) return;
  const auto x_steps = steps_of(x.shape()), y_steps = steps_of(y.shape());
  Loops loops;
  std::int64_t x_first = 0, y_first = 0;
  for (int i = 0; i < size.rank(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    loops.push({size[i], x_steps[at], y_steps[at]});
    x_first += x_begin[i] * x_steps[at];
    y_first += y_begin[i] * y_steps[at];
  }
  // The innermost loop is even unless the last dimension has size 1: then each element is a run.
  const bool even = loops.count > 0 && loops.loops[static_cast<std::size_t>(loops.count - 1)].x_step == 1 &&
                    loops.loops[static_cast<std::size_t>(loops.count - 1)].y_step == 1;
  const std::int64_t run = even ? loops.take(loops.count - 1).size : 1;
  dispatch_size(x.dtype(), [&]<typename T>() {
    copy_runs(loops, run, reinterpret_cast<const T*>(x.raw()) + x_first, reinterpret_cast<T*>(y.raw()) + y_first);
  });
}

}  // namespace

constinit Kernel<void(const Tensor&, const Shape&, Tensor&)> permute_forward{"permute_forward", permute_forward_cpu};
constinit Kernel<void(const Tensor&, const Shape&, Tensor&, const Shape&, const Shape&)> copy_box{"copy_box",
                                                                                                  copy_box_cpu};

}  // namespace dattn
