// BatchNorm: moments, sums and affine maps of x read as [R,C]. Device twins of layers/batchnorm_cpu.cpp.
#include "layers/batchnorm.h"

#include "cuda/channel_sweeps.cuh"
#include "cuda/kernels.h"

namespace dattn::cuda {

namespace {

ChannelSweep whole_batch(const Tensor& x) { return {1, x.shape().rows(), x.size(-1)}; }

struct UpdateRunning {
  const float *mean, *var;
  float keep, take, take_unbiased;
  float *running_mean, *running_var;
  std::int64_t* batches;
  __device__ void operator()(std::int64_t c) const {
    running_mean[c] = keep * running_mean[c] + take * mean[c];
    running_var[c] = keep * running_var[c] + take_unbiased * var[c];
    if (c == 0) ++*batches;
  }
};

template <typename S, int V>
struct Normalise {
  const S* x;
  const float *mean, *var, *w, *b;
  float eps;
  S* y;
  struct Own {
    Floats<V> mean, scale, shift;
  };
  __device__ Own channels(std::int64_t, std::int64_t c) const {
    Own own{channel_numbers<V>(mean + c), {}, channel_numbers<V>(b + c)};
#pragma unroll
    for (int v = 0; v < V; ++v) own.scale[v] = w[c + v] / sqrtf(var[c + v] + eps);
    return own;
  }
  __device__ void operator()(const Own& own, std::int64_t i) const {
    Floats<V> out = load<V>(x + i);
#pragma unroll
    for (int v = 0; v < V; ++v) out[v] = fmaf(out[v] - own.mean[v], own.scale[v], own.shift[v]);
    store<V>(y + i, out);
  }
};

template <typename S, int V>
struct GradientSums {
  const S *dy, *x;
  const float* mean;
  __device__ Floats<V> channels(std::int64_t, std::int64_t c) const { return channel_numbers<V>(mean + c); }
  __device__ void operator()(const Floats<V>& centre, std::int64_t i, Floats<V> (&sum)[2]) const {
    const Floats<V> g = load<V>(dy + i), here = load<V>(x + i);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      sum[0][v] += g[v];
      sum[1][v] = fmaf(g[v], here[v] - centre[v], sum[1][v]);
    }
  }
};

struct FinishGradientSums {
  const float* var;
  float eps;
  float *sum_dy, *sum_dy_xhat;
  __device__ void operator()(std::int64_t c, Floats<2> sum) const {
    sum_dy[c] = sum[0];
    if (sum_dy_xhat != nullptr) sum_dy_xhat[c] = sum[1] / sqrtf(var[c] + eps);
  }
};

// dx = dy p + (x - mean) q + r with p = w s, q = -w s^2 dw / R, r = -w s db / R.
template <typename S, int V>
struct Gradient {
  const S *dy, *x;
  const float *mean, *var, *w, *sum_dy, *sum_dy_xhat;
  float eps, share;  // 1 / R
  S* dx;
  struct Own {
    Floats<V> mean, p, q, r;
  };
  __device__ Own channels(std::int64_t, std::int64_t c) const {
    Own own{channel_numbers<V>(mean + c), {}, {}, {}};
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const float s = 1.0f / sqrtf(var[c + v] + eps);
      own.p[v] = w[c + v] * s;
      own.q[v] = -own.p[v] * s * sum_dy_xhat[c + v] * share;
      own.r[v] = -own.p[v] * sum_dy[c + v] * share;
    }
    return own;
  }
  __device__ void operator()(const Own& own, std::int64_t i) const {
    const Floats<V> g = load<V>(dy + i), here = load<V>(x + i);
    Floats<V> out;
#pragma unroll
    for (int v = 0; v < V; ++v) out[v] = fmaf(g[v], own.p[v], fmaf(here[v] - own.mean[v], own.q[v], own.r[v]));
    store<V>(dx + i, out);
  }
};

template <typename S, int V>
struct FixedGradient {
  const S* dy;
  const float *var, *w;
  float eps;
  S* dx;
  __device__ Floats<V> channels(std::int64_t, std::int64_t c) const {
    Floats<V> scale;
#pragma unroll
    for (int v = 0; v < V; ++v) scale[v] = w[c + v] / sqrtf(var[c + v] + eps);
    return scale;
  }
  __device__ void operator()(const Floats<V>& scale, std::int64_t i) const {
    Floats<V> out = load<V>(dy + i);
#pragma unroll
    for (int v = 0; v < V; ++v) out[v] *= scale[v];
    store<V>(dx + i, out);
  }
};

}  // namespace

void batchnorm_statistics_cuda(const Tensor& x, Tensor& mean, Tensor& var) {
  dispatch_storage("batchnorm2d", x.dtype(), [&]<typename S>() {
    channel_moments("batchnorm_statistics", whole_batch(x), x.data<S>(), mean.data<float>(), var.data<float>());
  });
}

void batchnorm_update_cuda(const Tensor& mean, const Tensor& var, std::int64_t rows, double momentum,
                           Tensor& running_mean, Tensor& running_var, Tensor& num_batches_tracked) {
  const double unbiased = static_cast<double>(rows) / static_cast<double>(rows - 1);
  for_each_item(
      "batchnorm_update", mean.elements(),
      UpdateRunning{mean.data<float>(), var.data<float>(), static_cast<float>(1 - momentum),
                    static_cast<float>(momentum), static_cast<float>(momentum * unbiased), running_mean.data<float>(),
                    running_var.data<float>(), num_batches_tracked.data<std::int64_t>()});
}

void batchnorm_forward_cuda(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w, const Tensor& b,
                            double eps, Tensor& y) {
  dispatch_storage("batchnorm2d", x.dtype(), [&]<typename S>() {
    dispatch_width<S>(x.size(-1), {x.raw(), y.raw()}, [&]<int V>() {
      channel_map<V>("batchnorm_forward", whole_batch(x),
                     Normalise<S, V>{x.data<S>(), mean.data<float>(), var.data<float>(), w.data<float>(),
                                     b.data<float>(), static_cast<float>(eps), y.data<S>()});
    });
  });
}

void batchnorm_backward_sums_cuda(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var, double eps,
                                  Tensor& sum_dy, Tensor& sum_dy_xhat) {
  dispatch_storage("batchnorm2d", x.dtype(), [&]<typename S>() {
    dispatch_width<S>(x.size(-1), {dy.raw(), x.raw()}, [&]<int V>() {
      channel_sums<V, 2>("batchnorm_backward_sums", whole_batch(x),
                         GradientSums<S, V>{dy.data<S>(), x.data<S>(), mean.data<float>()},
                         FinishGradientSums{var.data<float>(), static_cast<float>(eps), sum_dy.data<float>(),
                                            sum_dy_xhat ? sum_dy_xhat.data<float>() : nullptr});
    });
  });
}

void batchnorm_backward_cuda(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w,
                             double eps, const Tensor& sum_dy, const Tensor& sum_dy_xhat, Tensor& dx) {
  const ChannelSweep sweep = whole_batch(x);
  dispatch_storage("batchnorm2d", x.dtype(), [&]<typename S>() {
    dispatch_width<S>(sweep.channels, {dy.raw(), x.raw(), dx.raw()}, [&]<int V>() {
      channel_map<V>("batchnorm_backward", sweep,
                     Gradient<S, V>{dy.data<S>(), x.data<S>(), mean.data<float>(), var.data<float>(), w.data<float>(),
                                    sum_dy.data<float>(), sum_dy_xhat.data<float>(), static_cast<float>(eps),
                                    1.0f / static_cast<float>(sweep.rows), dx.data<S>()});
    });
  });
}

void batchnorm_backward_fixed_cuda(const Tensor& dy, const Tensor& var, const Tensor& w, double eps, Tensor& dx) {
  dispatch_storage("batchnorm2d", dy.dtype(), [&]<typename S>() {
    dispatch_width<S>(dy.size(-1), {dy.raw(), dx.raw()}, [&]<int V>() {
      channel_map<V>(
          "batchnorm_backward_fixed", whole_batch(dy),
          FixedGradient<S, V>{dy.data<S>(), var.data<float>(), w.data<float>(), static_cast<float>(eps), dx.data<S>()});
    });
  });
}

}  // namespace dattn::cuda
