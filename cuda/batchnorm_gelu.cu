// BatchNorm with GELU: one sweep forward, two backward, each of which makes z again. Device twins of
// layers/batchnorm_gelu_cpu.cpp.
#include "layers/batchnorm_gelu.h"

#include "cuda/activation_formulas.cuh"
#include "cuda/channel_sweeps.cuh"
#include "cuda/kernels.h"

namespace dattn::cuda {

namespace {

struct Statistics {
  const float *mean, *var, *w, *b;
  float eps;

  Statistics(const Tensor& mean_, const Tensor& var_, const Tensor& w_, const Tensor& b_, double eps_)
      : mean(mean_.data<float>()),
        var(var_.data<float>()),
        w(w_.data<float>()),
        b(b_.data<float>()),
        eps(static_cast<float>(eps_)) {}
  __device__ float inverse_deviation(std::int64_t c) const { return 1.0f / sqrtf(var[c] + eps); }
};

// z = (x - mean) scale + shift of V channels.
template <int V>
struct AffineChannels {
  Floats<V> mean, scale, shift;

  __device__ AffineChannels(const Statistics& of, std::int64_t c)
      : mean(channel_numbers<V>(of.mean + c)), shift(channel_numbers<V>(of.b + c)) {
#pragma unroll
    for (int v = 0; v < V; ++v) scale[v] = of.w[c + v] * of.inverse_deviation(c + v);
  }
  __device__ float z(float centred, int v) const { return fmaf(centred, scale[v], shift[v]); }
};

template <typename S, int V>
struct Forward {
  const S* x;
  Statistics of;
  S* y;
  __device__ AffineChannels<V> channels(std::int64_t, std::int64_t c) const { return {of, c}; }
  __device__ void operator()(const AffineChannels<V>& own, std::int64_t i) const {
    Floats<V> out = load<V>(x + i);
#pragma unroll
    for (int v = 0; v < V; ++v) out[v] = GeluErfFormula<S>::value(own.z(out[v] - own.mean[v], v));
    store<V>(y + i, out);
  }
};

template <typename S, int V>
struct GradientSums {
  const S *dy, *x;
  Statistics of;
  __device__ AffineChannels<V> channels(std::int64_t, std::int64_t c) const { return {of, c}; }
  __device__ void operator()(const AffineChannels<V>& own, std::int64_t i, Floats<V> (&sum)[2]) const {
    const Floats<V> g = load<V>(dy + i), here = load<V>(x + i);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const float centred = here[v] - own.mean[v], dz = g[v] * GeluErfFormula<S>::slope(own.z(centred, v));
      sum[0][v] += dz;
      sum[1][v] = fmaf(dz, centred, sum[1][v]);
    }
  }
};

struct FinishGradientSums {
  Statistics of;
  float *sum_dz, *sum_dz_xhat;
  __device__ void operator()(std::int64_t c, Floats<2> sum) const {
    sum_dz[c] = sum[0];
    sum_dz_xhat[c] = sum[1] * of.inverse_deviation(c);
  }
};

// dx = dz w s + (x - mean) q + r with q = -w s^2 dw / R, r = -w s db / R; both are 0 in evaluation.
template <typename S, int V>
struct Gradient {
  const S *dy, *x;
  Statistics of;
  const float *sum_dz, *sum_dz_xhat;  // null in evaluation
  float share;                        // 1 / R
  S* dx;
  struct Own {
    AffineChannels<V> affine;
    Floats<V> q, r;
  };
  __device__ Own channels(std::int64_t, std::int64_t c) const {
    Own own{{of, c}, {}, {}};
    if (sum_dz == nullptr) return own;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const float factor = -own.affine.scale[v] * share;
      own.q[v] = factor * of.inverse_deviation(c + v) * sum_dz_xhat[c + v];
      own.r[v] = factor * sum_dz[c + v];
    }
    return own;
  }
  __device__ void operator()(const Own& own, std::int64_t i) const {
    const Floats<V> g = load<V>(dy + i), here = load<V>(x + i);
    Floats<V> out;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const float centred = here[v] - own.affine.mean[v];
      const float dz = g[v] * GeluErfFormula<S>::slope(own.affine.z(centred, v));
      out[v] = fmaf(dz, own.affine.scale[v], fmaf(centred, own.q[v], own.r[v]));
    }
    store<V>(dx + i, out);
  }
};

ChannelSweep whole_batch(const Tensor& x) { return {1, x.shape().rows(), x.size(-1)}; }

}  // namespace

void batchnorm_gelu_forward_cuda(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w,
                                 const Tensor& b, double eps, Tensor& y) {
  dispatch_storage("batchnorm_gelu", x.dtype(), [&]<typename S>() {
    dispatch_width<S>(x.size(-1), {x.raw(), y.raw()}, [&]<int V>() {
      channel_map<V>("batchnorm_gelu_forward", whole_batch(x),
                     Forward<S, V>{x.data<S>(), {mean, var, w, b, eps}, y.data<S>()});
    });
  });
}

void batchnorm_gelu_backward_sums_cuda(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var,
                                       const Tensor& w, const Tensor& b, double eps, Tensor& sum_dz,
                                       Tensor& sum_dz_xhat) {
  const Statistics of(mean, var, w, b, eps);
  dispatch_storage("batchnorm_gelu", x.dtype(), [&]<typename S>() {
    dispatch_width<S>(x.size(-1), {dy.raw(), x.raw()}, [&]<int V>() {
      channel_sums<V, 2>("batchnorm_gelu_backward_sums", whole_batch(x),
                         GradientSums<S, V>{dy.data<S>(), x.data<S>(), of},
                         FinishGradientSums{of, sum_dz.data<float>(), sum_dz_xhat.data<float>()});
    });
  });
}

void batchnorm_gelu_backward_cuda(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var,
                                  const Tensor& w, const Tensor& b, double eps, const Tensor& sum_dz,
                                  const Tensor& sum_dz_xhat, Tensor& dx) {
  const ChannelSweep sweep = whole_batch(x);
  dispatch_storage("batchnorm_gelu", x.dtype(), [&]<typename S>() {
    dispatch_width<S>(sweep.channels, {dy.raw(), x.raw(), dx.raw()}, [&]<int V>() {
      channel_map<V>("batchnorm_gelu_backward", sweep,
                     Gradient<S, V>{dy.data<S>(),
                                    x.data<S>(),
                                    {mean, var, w, b, eps},
                                    sum_dz ? sum_dz.data<float>() : nullptr,
                                    sum_dz ? sum_dz_xhat.data<float>() : nullptr,
                                    1.0f / static_cast<float>(sweep.rows),
                                    dx.data<S>()});
    });
  });
}

}  // namespace dattn::cuda
