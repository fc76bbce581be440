// What the updates of optimizers share: loops over elements that read the numbers of the update from the device, and
// sums of squares.
#pragma once

#include "cuda/common.cuh"
#include "optim/update_numbers.h"

namespace dattn::cuda {

// --- updates ---

/// The struct of numbers that a tensor on the device holds.
template <typename N>
const N* numbers_in(const Tensor& numbers) {
  check(numbers.elements() == kNumbers<N>, "expected {} numbers of an update, got {}", kNumbers<N>, numbers.shape());
  return reinterpret_cast<const N*>(numbers.data<double>());
}

namespace detail {
template <typename N, typename F>
__global__ void update_kernel(std::int64_t n, const N* numbers, F f) {
  f.take(*numbers);
  for (std::int64_t i = first_item(); i < n; i += item_step()) f(i);
}
}  // namespace detail

/// Calls f(i) on the device for every i in [0, n) after f.take(numbers), which each thread calls once. F is a struct of
/// plain members with a `__device__ void take(const N&)` that sets some of them.
template <typename N, typename F>
void for_each_update(const char* name, std::int64_t n, const Tensor& numbers, const F& f) {
  launch(name, detail::update_kernel<N, F>, grid_for(n), n, numbers_in<N>(numbers), f);
}

// --- sums of squares, in double: finite for all finite elements ---

/// Parts that a row of n elements is summed in.
std::int64_t square_parts(std::int64_t n);

/// partial [rows, square_parts(n)] = sums of squares of the parts of x [rows, n].
void sum_squares(const char* name, std::int64_t rows, std::int64_t n, const float* x, double* partial);

/// Sum of a row's parts in a fixed order, the same in every thread of the warp.
__device__ inline double sum_parts(const double* partial, std::int64_t parts) {
  double sum = 0;
  for (std::int64_t i = lane_index(); i < parts; i += kWarpThreads) sum += partial[i];
  return warp_sum(sum);
}

}  // namespace dattn::cuda
