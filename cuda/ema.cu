// Averages of the weights: device twins of optim/ema_cpu.cpp.
#include "cuda/kernels.h"
#include "cuda/updates.cuh"
#include "optim/ema.h"

namespace dattn::cuda {

namespace {

struct EmaUpdate {
  const float* weight;
  float* average;
  float gain = 0;

  __device__ void take(const EmaNumbers& numbers) { gain = static_cast<float>(numbers.gain); }
  __device__ void operator()(std::int64_t i) const { average[i] += gain * (weight[i] - average[i]); }
};

struct Exchange {
  float *a, *b;
  __device__ void operator()(std::int64_t i) const {
    const float old = a[i];
    a[i] = b[i];
    b[i] = old;
  }
};

}  // namespace

void ema_update_cuda(const Tensor& weight, Tensor& average, const Tensor& numbers) {
  for_each_update<EmaNumbers>("ema_update", weight.elements(), numbers,
                              EmaUpdate{weight.data<float>(), average.data<float>()});
}

void swap_elements_cuda(Tensor& a, Tensor& b) {
  for_each_item("swap_elements", a.elements(), Exchange{a.data<float>(), b.data<float>()});
}

}  // namespace dattn::cuda
