// SGD: device twin of optim/sgd_cpu.cpp.
#include "cuda/kernels.h"
#include "cuda/updates.cuh"
#include "optim/sgd.h"

namespace dattn::cuda {

namespace {

struct SgdUpdate {
  float* w;
  const float* grad;
  float* m;  // null without momentum
  float momentum;
  bool nesterov;
  float lr = 0, decay = 0, scale = 0;

  __device__ void take(const SgdNumbers& numbers) {
    lr = static_cast<float>(numbers.lr);
    decay = static_cast<float>(numbers.weight_decay);
    scale = static_cast<float>(numbers.gradient_scale);
  }
  __device__ void operator()(std::int64_t i) const {
    const float old = w[i], g = decay * old + scale * grad[i];
    float direction = g;
    if (m) {
      const float running = momentum * m[i] + g;
      m[i] = running;
      direction = nesterov ? momentum * running + g : running;
    }
    w[i] = old - lr * direction;
  }
};

}  // namespace

void sgd_update_cuda(Tensor& w, const Tensor& grad, Tensor& m, const Tensor& numbers, const SgdOptions& options) {
  for_each_update<SgdNumbers>("sgd_update", w.elements(), numbers,
                              SgdUpdate{w.data<float>(), grad.data<float>(), m ? m.data<float>() : nullptr,
                                        static_cast<float>(options.momentum), options.nesterov});
}

}  // namespace dattn::cuda
