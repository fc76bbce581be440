// Sums of squares and scaling: device twins of optim/gradient_norm_cpu.cpp.
#include <algorithm>

#include "cuda/kernels.h"
#include "cuda/updates.cuh"

namespace dattn::cuda {

namespace {

// Blocks [parts, rows].
__global__ void squares_kernel(const float* x, std::int64_t n, double* partial) {
  DATTN_SHARED(double, sums, kThreads / kWarpThreads);
  const float* row = x + blockIdx.y * n;
  double sum = 0;
  for (std::int64_t i = first_item(); i < n; i += item_step()) {
    const double v = row[i];
    sum += v * v;
  }
  sum = warp_sum(sum);
  if (lane_index() == 0) sums[warp_index()] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double total = 0;
  for (int warp = 0; warp < kThreads / kWarpThreads; ++warp) total += sums[warp];
  partial[blockIdx.y * static_cast<std::int64_t>(gridDim.x) + blockIdx.x] = total;
}

__global__ void add_parts_kernel(const double* partial, std::int64_t parts, double* sum) {
  const double total = sum_parts(partial, parts);
  if (threadIdx.x == 0) *sum = total;
}

}  // namespace

std::int64_t square_parts(std::int64_t n) {
  constexpr std::int64_t kPart = 16 * kThreads, kMostParts = 256;
  return std::clamp<std::int64_t>((n + kPart - 1) / kPart, 1, kMostParts);
}

void sum_squares(const char* name, std::int64_t rows, std::int64_t n, const float* x, double* partial) {
  launch(name, squares_kernel,
         Grid{dim3(static_cast<unsigned>(square_parts(n)), static_cast<unsigned>(rows)), dim3(kThreads)}, x, n,
         partial);
}

void sum_of_squares_cuda(const Tensor& x, Tensor& sum) {
  const std::int64_t n = x.elements(), parts = square_parts(n);
  Scratch<double> partial(parts);
  sum_squares("sum_of_squares", 1, n, x.data<float>(), partial.data());
  launch("sum_of_squares", add_parts_kernel, Grid{dim3(1), dim3(kWarpThreads)}, partial.data(), parts,
         sum.data<double>());
}

}  // namespace dattn::cuda
