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

// Short tensors, most of them statistics of a layer, among the arguments of one launch.
struct EmaList {
  static constexpr int kMost = 64;
  const float* weight[kMost] = {};
  float* average[kMost] = {};
  int elements[kMost] = {};
  int count = 0;

  void add(EmaPair& pair) {
    weight[count] = pair.weight.data<float>();
    average[count] = pair.average.data<float>();
    elements[count] = static_cast<int>(pair.weight.elements());
    ++count;
  }
};

// A block has a tensor.
__global__ void ema_list_kernel(const EmaNumbers* numbers, EmaList list) {
  const auto at = static_cast<int>(blockIdx.x);
  EmaUpdate update{list.weight[at], list.average[at]};
  update.take(*numbers);
  for (int i = static_cast<int>(threadIdx.x); i < list.elements[at]; i += static_cast<int>(blockDim.x)) update(i);
}

void update_list(const Tensor& numbers, EmaList& list) {
  launch("ema_update", ema_list_kernel, Grid{static_cast<unsigned>(list.count), kThreads},
         numbers_in<EmaNumbers>(numbers), list);
  list.count = 0;
}

struct Exchange {
  float *a, *b;
  __device__ void operator()(std::int64_t i) const {
    const float old = a[i];
    a[i] = b[i];
    b[i] = old;
  }
};

}  // namespace

void ema_update_cuda(const Tensor& numbers, std::vector<EmaPair>& pairs) {
  constexpr std::int64_t kMostOfABlock = 4096;
  EmaList list;
  for (EmaPair& pair : pairs) {
    if (pair.weight.elements() > kMostOfABlock) {
      for_each_update<EmaNumbers>("ema_update", pair.weight.elements(), numbers,
                                  EmaUpdate{pair.weight.data<float>(), pair.average.data<float>()});
      continue;
    }
    list.add(pair);
    if (list.count == EmaList::kMost) update_list(numbers, list);
  }
  update_list(numbers, list);
}

void swap_elements_cuda(Tensor& a, Tensor& b) {
  for_each_item("swap_elements", a.elements(), Exchange{a.data<float>(), b.data<float>()});
}

}  // namespace dattn::cuda
