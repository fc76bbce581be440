// Totals of an epoch: device twin of layers/totals.cpp.
#include "layers/totals.h"

#include "cuda/common.cuh"
#include "cuda/kernels.h"

namespace dattn::cuda {

namespace {

constexpr int kTotalThreads = 1024;

// As std::max_element: a NaN is larger than nothing, and nothing is larger than a NaN that comes first.
__device__ std::int64_t first_largest(const float* z, std::int64_t classes) {
  float most = z[0];
  std::int64_t place = 0;
  for (std::int64_t c = 1; c < classes; ++c) {
    const float v = z[c];
    if (most < v) most = v, place = c;
  }
  return place;
}

// One block: counts are whole numbers below 2^24, so their sum in float is exact.
__global__ void __launch_bounds__(kTotalThreads)
    totals_kernel(const float* logits, const std::int64_t* labels, std::int64_t rows, std::int64_t classes,
                  const float* loss, double loss_factor, const std::int64_t* step, double* totals) {
  DATTN_SHARED(float, scratch, kTotalThreads / kWarpThreads);
  float correct = 0;
  for (std::int64_t n = threadIdx.x; n < rows; n += blockDim.x) {
    if (first_largest(logits + n * classes, classes) == labels[n]) correct += 1;
  }
  correct = block_sum(correct, scratch);
  if (threadIdx.x != 0) return;
  totals[0] += loss_factor * static_cast<double>(*loss);
  totals[1] += static_cast<double>(correct);
  if (!isfinite(*loss) && totals[2] < 0) totals[2] = static_cast<double>(*step);
}

}  // namespace

void add_to_totals_cuda(const Tensor& logits, const Tensor& labels, const Tensor& loss, double loss_factor,
                        const Tensor& step, Tensor& totals) {
  check_totals(logits, labels, loss, step, totals);
  launch("add_to_totals", totals_kernel, {1, kTotalThreads}, logits.data<float>(), labels.data<std::int64_t>(),
         logits.size(0), logits.size(1), loss.data<float>(), loss_factor, step.data<std::int64_t>(),
         totals.data<double>());
}

}  // namespace dattn::cuda
