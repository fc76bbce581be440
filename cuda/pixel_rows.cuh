// Loops over the pixels of images [N,H,W,C], a thread for V neighbouring channels of a pixel.
#pragma once

#include <algorithm>
#include <bit>

#include "core/tensor.h"
#include "cuda/common.cuh"

namespace dattn::cuda {

/// Place of a thread: image n, row h, column w, and channel c, the first of V.
struct PixelPlace {
  std::int64_t n;
  int h, w, c;
};

namespace detail {

template <int V, typename F>
__global__ void pixel_kernel(std::int64_t rows, int H, int items, int vectors, F f) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  const std::int64_t n = row / H;
  const auto h = static_cast<int>(row - n * H);
  for (int i = static_cast<int>(threadIdx.x); i < items; i += static_cast<int>(blockDim.x)) {
    const int w = i / vectors;
    f(PixelPlace{n, h, w, (i - w * vectors) * V});
  }
}

}  // namespace detail

/// Calls f(place) on the device for all pixels and every V-th channel of `images`; F is a struct of plain members.
template <int V, typename F>
void for_each_pixel(const char* name, const Tensor& images, const F& f) {
  const std::int64_t rows = images.size(0) * images.size(1), vectors = images.size(3) / V,
                     items = images.size(2) * vectors;
  if (items == 0) return;
  check(items < std::int64_t{1} << 31, "{}: a row of pixels {} is too long for cuda", name, images.shape());
  const auto x = std::clamp(std::bit_ceil(static_cast<unsigned>(std::min<std::int64_t>(items, kThreads))),
                            static_cast<unsigned>(kWarpThreads), static_cast<unsigned>(kThreads));
  const unsigned y = kThreads / x;
  launch(name, detail::pixel_kernel<V, F>, {static_cast<unsigned>((rows + y - 1) / y), dim3(x, y)}, rows,
         images.size(1), items, vectors, f);
}

}  // namespace dattn::cuda
