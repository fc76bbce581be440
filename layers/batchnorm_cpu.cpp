// CPU kernels of BatchNorm: column reductions and affine maps of x read as [R,C].
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/batchnorm_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <cmath>

#include "layers/batchnorm.h"
#include "layers/channel_sweeps-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

inline ChannelSweep whole_batch(const Tensor& x) { return {1, x.shape().rows(), x.size(-1)}; }

inline double inverse_deviation(double var, double eps) { return 1 / std::sqrt(var + eps); }

void BatchNormStatistics(const Tensor& x, Tensor& mean, Tensor& var) {
  dispatch_activations("batchnorm2d", x.dtype(), [&]<typename S>() HWY_ATTR {
    using T = Exact<S>;
    channel_moments(whole_batch(x), x.data<S>(), mean.data<T>(), var.data<T>());
  });
}

void BatchNormForward(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w, const Tensor& b,
                      double eps, Tensor& y) {
  dispatch_activations("batchnorm2d", x.dtype(), [&]<typename S>() HWY_ATTR {
    using T = Exact<S>;
    const std::int64_t C = x.size(-1);
    Scratch<T> scale(static_cast<std::size_t>(C));
    for (std::int64_t c = 0; c < C; ++c) {
      scale.data()[c] = static_cast<T>(w.data<T>()[c] * inverse_deviation(var.data<T>()[c], eps));
    }
    channel_normalise(whole_batch(x), x.data<S>(), mean.data<T>(), scale.data(), b.data<T>(), y.data<S>());
  });
}

void BatchNormBackwardSums(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var, double eps,
                           Tensor& sum_dy, Tensor& sum_dy_xhat) {
  dispatch_activations("batchnorm2d", x.dtype(), [&]<typename S>() HWY_ATTR {
    using T = Exact<S>;
    const S *pdy = dy.data<S>(), *px = x.data<S>();
    if (!sum_dy_xhat) {
      channel_sums<T>(whole_batch(x), {}, sum_dy.data<T>(), nullptr,
                      [&](auto d, std::int64_t i, const T*, auto& sum, auto&)
                          HWY_ATTR { sum = hn::Add(sum, load(d, pdy + i)); });
      return;
    }
    T* pxhat = sum_dy_xhat.data<T>();
    channel_sums<T>(whole_batch(x), {mean.data<T>()}, sum_dy.data<T>(), pxhat,
                    [&](auto d, std::int64_t i, const T* m, auto& sum, auto& product) HWY_ATTR {
                      const auto v = load(d, pdy + i);
                      sum = hn::Add(sum, v);
                      product = hn::MulAdd(v, hn::Sub(load(d, px + i), hn::LoadU(d, m)), product);
                    });
    for (std::int64_t c = 0; c < x.size(-1); ++c)
      pxhat[c] = static_cast<T>(pxhat[c] * inverse_deviation(var.data<T>()[c], eps));
  });
}

// dx = dy p + (x - mean) q + r with p = w s, q = -w s^2 dw / R, r = -w s db / R.
void BatchNormBackward(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w,
                       double eps, const Tensor& sum_dy, const Tensor& sum_dy_xhat, Tensor& dx) {
  dispatch_activations("batchnorm2d", x.dtype(), [&]<typename S>() HWY_ATTR {
    using T = Exact<S>;
    const ChannelSweep sweep = whole_batch(x);
    const std::int64_t C = sweep.channels;
    const auto R = static_cast<double>(sweep.rows);
    Scratch<T> factors(static_cast<std::size_t>(3 * C));
    T *p = factors.data(), *q = p + C, *r = q + C;
    for (std::int64_t c = 0; c < C; ++c) {
      const double s = inverse_deviation(var.data<T>()[c], eps), ws = w.data<T>()[c] * s;
      p[c] = static_cast<T>(ws);
      q[c] = static_cast<T>(-ws * s * sum_dy_xhat.data<T>()[c] / R);
      r[c] = static_cast<T>(-ws * sum_dy.data<T>()[c] / R);
    }
    channel_gradient(sweep, dy.data<S>(), x.data<S>(), mean.data<T>(), p, q, r, dx.data<S>());
  });
}

void BatchNormBackwardFixed(const Tensor& dy, const Tensor& var, const Tensor& w, double eps, Tensor& dx) {
  dispatch_activations("batchnorm2d", dy.dtype(), [&]<typename S>() HWY_ATTR {
    using T = Exact<S>;
    const std::int64_t C = dy.size(-1);
    Scratch<T> scale(static_cast<std::size_t>(C));
    for (std::int64_t c = 0; c < C; ++c) {
      scale.data()[c] = static_cast<T>(w.data<T>()[c] * inverse_deviation(var.data<T>()[c], eps));
    }
    channel_scale(whole_batch(dy), dy.data<S>(), scale.data(), dx.data<S>());
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(BatchNormStatistics);
static void batchnorm_statistics_cpu(const Tensor& x, Tensor& mean, Tensor& var) {
  HWY_DYNAMIC_DISPATCH(BatchNormStatistics)(x, mean, var);
}
constinit Kernel<void(const Tensor&, Tensor&, Tensor&)> batchnorm_statistics{
    "batchnorm_statistics", batchnorm_statistics_cpu, Bfloat16::native};

static void batchnorm_update_cpu(const Tensor& mean, const Tensor& var, std::int64_t rows, double momentum,
                                 Tensor& running_mean, Tensor& running_var, Tensor& num_batches_tracked) {
  dispatch_float("batchnorm2d", mean.dtype(), [&]<typename T>() {
    const double unbiased = static_cast<double>(rows) / static_cast<double>(rows - 1);
    T *rm = running_mean.data<T>(), *rv = running_var.data<T>();
    for (std::int64_t c = 0; c < mean.elements(); ++c) {
      rm[c] = static_cast<T>((1 - momentum) * rm[c] + momentum * mean.data<T>()[c]);
      rv[c] = static_cast<T>((1 - momentum) * rv[c] + momentum * unbiased * var.data<T>()[c]);
    }
  });
  *num_batches_tracked.data<std::int64_t>() += 1;
}
constinit Kernel<void(const Tensor&, const Tensor&, std::int64_t, double, Tensor&, Tensor&, Tensor&)> batchnorm_update{
    "batchnorm_update", batchnorm_update_cpu};

HWY_EXPORT(BatchNormForward);
static void batchnorm_forward_cpu(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w,
                                  const Tensor& b, double eps, Tensor& y) {
  HWY_DYNAMIC_DISPATCH(BatchNormForward)(x, mean, var, w, b, eps, y);
}
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, double, Tensor&)>
    batchnorm_forward{"batchnorm_forward", batchnorm_forward_cpu, Bfloat16::native};

HWY_EXPORT(BatchNormBackwardSums);
static void batchnorm_backward_sums_cpu(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var,
                                        double eps, Tensor& sum_dy, Tensor& sum_dy_xhat) {
  HWY_DYNAMIC_DISPATCH(BatchNormBackwardSums)(dy, x, mean, var, eps, sum_dy, sum_dy_xhat);
}
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Tensor&, double, Tensor&, Tensor&)>
    batchnorm_backward_sums{"batchnorm_backward_sums", batchnorm_backward_sums_cpu, Bfloat16::native};

HWY_EXPORT(BatchNormBackward);
static void batchnorm_backward_cpu(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var,
                                   const Tensor& w, double eps, const Tensor& sum_dy, const Tensor& sum_dy_xhat,
                                   Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(BatchNormBackward)(dy, x, mean, var, w, eps, sum_dy, sum_dy_xhat, dx);
}
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, double, const Tensor&,
                      const Tensor&, Tensor&)>
    batchnorm_backward{"batchnorm_backward", batchnorm_backward_cpu, Bfloat16::native};

HWY_EXPORT(BatchNormBackwardFixed);
static void batchnorm_backward_fixed_cpu(const Tensor& dy, const Tensor& var, const Tensor& w, double eps, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(BatchNormBackwardFixed)(dy, var, w, eps, dx);
}
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, double, Tensor&)> batchnorm_backward_fixed{
    "batchnorm_backward_fixed", batchnorm_backward_fixed_cpu, Bfloat16::native};

}  // namespace dattn
#endif
