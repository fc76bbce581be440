// Basic operations that move elements: permute and the copy of a box. Device twins of core/ops_layout_cpu.cpp.
#include "core/loops.h"
#include "cuda/common.cuh"
#include "cuda/kernels.h"

namespace dattn::cuda {

namespace {

// core/loops.h in a form that kernels read.
struct DeviceLoops {
  int count;
  std::int64_t size[Shape::kMaxRank], x_step[Shape::kMaxRank], y_step[Shape::kMaxRank];

  explicit DeviceLoops(const Loops& loops) : count(loops.count) {
    for (int i = 0; i < count; ++i) size[i] = loops[i].size, x_step[i] = loops[i].x_step, y_step[i] = loops[i].y_step;
  }
};

template <typename T>
struct CopyElements {
  DeviceLoops loops;
  const T* x;
  T* y;
  __device__ void operator()(std::int64_t turn) const {
    std::int64_t at_x = 0, at_y = 0;
#pragma unroll
    for (int i = Shape::kMaxRank - 1; i >= 0; --i) {
      if (i >= loops.count) continue;
      const std::int64_t place = turn % loops.size[i];
      turn /= loops.size[i];
      at_x += place * loops.x_step[i];
      at_y += place * loops.y_step[i];
    }
    y[at_y] = x[at_x];
  }
};

constexpr int kSquare = 32, kSquareRows = 8;  // a tile of a transposed copy, and how many of its rows move at once

// y [batch, columns, rows] = x [batch, rows, columns] with the last two swapped, by square tiles in shared memory. One
// column more than needed keeps threads that read along it in different banks.
template <typename T>
__global__ void transpose_kernel(const T* x, int rows, int columns, T* y) {
  DATTN_SHARED(T, tile, kSquare * (kSquare + 1));
  const std::int64_t image = static_cast<std::int64_t>(blockIdx.z) * rows * columns;
  const auto i = static_cast<int>(threadIdx.x), first = static_cast<int>(threadIdx.y);
  const int row0 = static_cast<int>(blockIdx.y) * kSquare, column0 = static_cast<int>(blockIdx.x) * kSquare;
  for (int j = first; j < kSquare; j += kSquareRows) {
    if (row0 + j < rows && column0 + i < columns) {
      tile[j * (kSquare + 1) + i] = x[image + static_cast<std::int64_t>(row0 + j) * columns + column0 + i];
    }
  }
  __syncthreads();
  for (int j = first; j < kSquare; j += kSquareRows) {
    if (column0 + j < columns && row0 + i < rows) {
      y[image + static_cast<std::int64_t>(column0 + j) * rows + row0 + i] = tile[i * (kSquare + 1) + j];
    }
  }
}

// Whether the loops are one transposition of the last two of [batch, rows, columns], small enough for a grid.
bool is_transposition(const Loops& loops) {
  if (loops.count != 2 && loops.count != 3) return false;
  const Loop &columns = loops[loops.count - 2], &rows = loops[loops.count - 1];
  const bool swapped =
      columns.x_step == 1 && rows.y_step == 1 && rows.x_step == columns.size && columns.y_step == rows.size;
  const std::int64_t image = rows.size * columns.size;
  return swapped &&
         (loops.count == 2 || (loops[0].x_step == image && loops[0].y_step == image && loops[0].size < 65536)) &&
         rows.size <= 65535 * kSquare && columns.size < std::int64_t{1} << 31;
}

unsigned squares(std::int64_t n) { return static_cast<unsigned>((n + kSquare - 1) / kSquare); }

template <typename T>
void transpose(const Loops& loops, const T* x, T* y) {
  const std::int64_t columns = loops[loops.count - 2].size, rows = loops[loops.count - 1].size;
  const auto batch = static_cast<unsigned>(loops.count == 3 ? loops[0].size : 1);
  launch("transpose", transpose_kernel<T>, {dim3(squares(columns), squares(rows), batch), dim3(kSquare, kSquareRows)},
         x, rows, columns, y);
}

}  // namespace

void permute_forward_cuda(const Tensor& x, const Shape& order, Tensor& y) {
  if (y.elements() == 0) return;
  const Loops loops = permute_loops(x.shape(), order, y.shape());
  dispatch_size(size_of(x.dtype()), [&]<typename T>() {
    const T* px = reinterpret_cast<const T*>(x.raw());
    T* py = reinterpret_cast<T*>(y.raw());
    if constexpr (sizeof(T) > 1) {  // shared memory holds no single bytes
      if (is_transposition(loops)) return transpose(loops, px, py);
    }
    for_each_item("permute_forward", y.elements(), CopyElements<T>{DeviceLoops(loops), px, py});
  });
}

void copy_box_cuda(const Tensor& x, const Shape& x_begin, Tensor& y, const Shape& y_begin, const Shape& size) {
  if (size.elements() == 0) return;
  const BoxLoops box(x.shape(), x_begin, y.shape(), y_begin, size);
  dispatch_size(size_of(x.dtype()), [&]<typename T>() {
    for_each_item("copy_box", size.elements(),
                  CopyElements<T>{DeviceLoops(box.loops), reinterpret_cast<const T*>(x.raw()) + box.x_first,
                                  reinterpret_cast<T*>(y.raw()) + box.y_first});
  });
}

}  // namespace dattn::cuda
