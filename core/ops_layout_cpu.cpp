// CPU kernels of the basic operations that move elements: permute and the copy of a box. One instance for each size of
// element.
#include <algorithm>
#include <cstring>

#include "core/loops.h"
#include "core/ops.h"
#include "core/parallel.h"

namespace dattn {

namespace {

// The innermost loop runs evenly through both.
template <typename T>
void copy_runs(const Loops& outer, std::int64_t run, const T* x, T* y) {
  parallel_for(outer.turns(), std::max<std::int64_t>(1, kElementTile / std::max<std::int64_t>(1, run)),
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
  const std::int64_t tile = std::max<std::int64_t>(1, kElementTile / (kSquare * along.size));
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
  Loops loops = permute_loops(x.shape(), order, y.shape());
  const Loop along = loops.count > 0 ? loops.take(loops.count - 1) : Loop{};
  dispatch_size(size_of(x.dtype()), [&]<typename T>() {
    const T* px = reinterpret_cast<const T*>(x.raw());
    T* py = reinterpret_cast<T*>(y.raw());
    if (along.x_step == 1) return copy_runs(loops, along.size, px, py);
    int even = 0;  // the loop that is even in x
    while (loops[even].x_step != 1) ++even;
    Loops outer = loops;
    const Loop across = outer.take(even);
    copy_transposed(outer, across, along, px, py);
  });
}

void copy_box_cpu(const Tensor& x, const Shape& x_begin, Tensor& y, const Shape& y_begin, const Shape& size) {
  if (size.elements() == 0) return;
  BoxLoops box(x.shape(), x_begin, y.shape(), y_begin, size);
  Loops& loops = box.loops;
  // The innermost loop is even unless the last dimension has size 1: then each element is a run.
  const bool even = loops.count > 0 && loops[loops.count - 1].x_step == 1 && loops[loops.count - 1].y_step == 1;
  const std::int64_t run = even ? loops.take(loops.count - 1).size : 1;
  dispatch_size(size_of(x.dtype()), [&]<typename T>() {
    copy_runs(loops, run, reinterpret_cast<const T*>(x.raw()) + box.x_first,
              reinterpret_cast<T*>(y.raw()) + box.y_first);
  });
}

}  // namespace

constinit Kernel<void(const Tensor&, const Shape&, Tensor&)> permute_forward{"permute_forward", permute_forward_cpu,
                                                                             Bfloat16::native};
constinit Kernel<void(const Tensor&, const Shape&, Tensor&, const Shape&, const Shape&)> copy_box{
    "copy_box", copy_box_cpu, Bfloat16::native};

}  // namespace dattn
