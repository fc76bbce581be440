// Adam and AdamW: device twin of optim/adam_cpu.cpp.
#include "cuda/kernels.h"
#include "cuda/updates.cuh"
#include "optim/adam.h"

namespace dattn::cuda {

namespace {

struct AdamUpdate {
  float* w;
  const float* grad;
  float *m, *v;
  float new1, old2, new2, eps;  // 1 - beta1, beta2, 1 - beta2
  float rate = 0, root = 0, decay = 0, keep = 0, scale = 0;

  __device__ void take(const AdamNumbers& numbers) {
    rate = static_cast<float>(numbers.rate);
    root = static_cast<float>(numbers.root);
    decay = static_cast<float>(numbers.gradient_decay);
    keep = static_cast<float>(numbers.keep);
    scale = static_cast<float>(numbers.gradient_scale);
  }
  __device__ void operator()(std::int64_t i) const {
    const float old = w[i], g = decay * old + scale * grad[i];
    const float new_m = m[i] + new1 * (g - m[i]), new_v = old2 * v[i] + new2 * (g * g);
    m[i] = new_m;
    v[i] = new_v;
    w[i] = keep * old - rate * (new_m / (sqrtf(new_v) * root + eps));
  }
};

}  // namespace

void adam_update_cuda(Tensor& w, const Tensor& grad, Tensor& m, Tensor& v, const Tensor& numbers,
                      const AdamOptions& options) {
  for_each_update<AdamNumbers>("adam_update", w.elements(), numbers,
                               AdamUpdate{w.data<float>(), grad.data<float>(), m.data<float>(), v.data<float>(),
                                          static_cast<float>(1 - options.beta1), static_cast<float>(options.beta2),
                                          static_cast<float>(1 - options.beta2), static_cast<float>(options.eps)});
}

}  // namespace dattn::cuda
