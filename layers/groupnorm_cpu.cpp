// CPU kernels of GroupNorm: sums for each channel of an image, joined by groups.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/groupnorm_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <cmath>

#include "layers/channel_sweeps-inl.h"
#include "layers/groupnorm.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

inline ChannelSweep by_image(const Tensor& x) {
  const std::int64_t N = x.size(0), C = x.size(-1);
  return {N, N == 0 ? 0 : x.shape().rows() / N, C};
}

// Mean and s of each group from the moments of its channels: n var = sum over channels of R (var_c + (mean_c -
// mean)^2).
template <typename T>
HWY_INLINE void join_channels(std::int64_t images, std::int64_t C, std::int64_t G, const T* channel_mean,
                              const T* channel_var, double eps, T* mean, T* s) {
  const std::int64_t width = C / G;
  for (std::int64_t g = 0; g < images * G; ++g) {
    const T *m = channel_mean + g * width, *v = channel_var + g * width;
    double centre = 0, var = 0;
    for (std::int64_t c = 0; c < width; ++c) centre += static_cast<double>(m[c]) / static_cast<double>(width);
    for (std::int64_t c = 0; c < width; ++c)
      var += (v[c] + (m[c] - centre) * (m[c] - centre)) / static_cast<double>(width);
    mean[g] = static_cast<T>(centre);
    s[g] = static_cast<T>(1 / std::sqrt(var + eps));
  }
}

// The group's mean for each channel [N,C].
template <typename T>
HWY_INLINE void spread_groups(std::int64_t images, std::int64_t C, std::int64_t G, const T* of_group, T* of_channel) {
  for (std::int64_t g = 0; g < images * G; ++g) std::fill_n(of_channel + g * (C / G), C / G, of_group[g]);
}

void GroupNormForward(const Tensor& x, const Tensor& w, const Tensor& b, double eps, Tensor& y, Tensor& mean,
                      Tensor& s) {
  dispatch_float("groupnorm", x.dtype(), [&]<typename T>() HWY_ATTR {
    const ChannelSweep sweep = by_image(x);
    const std::int64_t N = sweep.segments, C = sweep.channels, G = mean.size(1);
    Scratch<T> scratch(static_cast<std::size_t>(2 * N * C));
    T *channel_mean = scratch.data(), *scale = channel_mean + N * C;
    channel_moments(sweep, x.data<T>(), channel_mean, scale);
    join_channels(N, C, G, channel_mean, scale, eps, mean.data<T>(), s.data<T>());
    spread_groups(N, C, G, mean.data<T>(), channel_mean);
    spread_groups(N, C, G, s.data<T>(), scale);
    for (std::int64_t i = 0; i < N * C; ++i) scale[i] *= w.data<T>()[i % C];
    channel_normalise(sweep, x.data<T>(), channel_mean, scale, b.data<T>(), y.data<T>());
  });
}

// dx = dy p + (x - mean) q + r with p = w s, q = -s^2 mean(g xhat), r = -s mean(g); sum_dy and sum_product [N,C] hold
// the sums of dy and dy (x - mean) over the pixels, and become q and r.
template <typename T>
HWY_INLINE void gradient_factors(const ChannelSweep& sweep, std::int64_t G, const T* w, const T* s, T* sum_dy,
                                 T* sum_product, T* p) {
  const std::int64_t C = sweep.channels, width = C / G;
  const double values = static_cast<double>(sweep.rows * width);
  for (std::int64_t g = 0; g < sweep.segments * G; ++g) {
    const double sg = s[g];
    const T* wg = w + g % G * width;
    double mean_g = 0, mean_g_xhat = 0;
    for (std::int64_t c = 0; c < width; ++c) {
      mean_g += static_cast<double>(wg[c]) * sum_dy[g * width + c] / values;
      mean_g_xhat += static_cast<double>(wg[c]) * sum_product[g * width + c] * sg / values;
    }
    for (std::int64_t c = 0; c < width; ++c) p[g * width + c] = static_cast<T>(wg[c] * sg);
    std::fill_n(sum_product + g * width, width, static_cast<T>(-sg * sg * mean_g_xhat));
    std::fill_n(sum_dy + g * width, width, static_cast<T>(-sg * mean_g));
  }
}

void GroupNormBackward(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& mean, const Tensor& s,
                       Tensor& dx, Tensor& dw, Tensor& db) {
  dispatch_float("groupnorm", x.dtype(), [&]<typename T>() HWY_ATTR {
    const ChannelSweep sweep = by_image(x);
    const std::int64_t N = sweep.segments, C = sweep.channels, G = mean.size(1);
    const T *pdy = dy.data<T>(), *px = x.data<T>(), *ps = s.data<T>();
    Scratch<T> scratch(static_cast<std::size_t>(4 * N * C));
    T *channel_mean = scratch.data(), *sum_dy = channel_mean + N * C, *sum_product = sum_dy + N * C,
      *p = sum_product + N * C;
    spread_groups(N, C, G, mean.data<T>(), channel_mean);
    channel_sums<T>(sweep, {channel_mean}, sum_dy, sum_product,
                    [&](auto d, std::int64_t i, const T* m, auto& sum, auto& product) HWY_ATTR {
                      const auto v = hn::LoadU(d, pdy + i);
                      sum = hn::Add(sum, v);
                      product = hn::MulAdd(v, hn::Sub(hn::LoadU(d, px + i), hn::LoadU(d, m)), product);
                    });
    for (std::int64_t i = 0; dw && i < N * C; ++i) dw.data<T>()[i % C] += sum_product[i] * ps[i / (C / G)];
    for (std::int64_t i = 0; db && i < N * C; ++i) db.data<T>()[i % C] += sum_dy[i];
    if (!dx) return;
    gradient_factors(sweep, G, w.data<T>(), ps, sum_dy, sum_product, p);
    channel_gradient(sweep, pdy, px, channel_mean, p, sum_product, sum_dy, dx.data<T>());
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(GroupNormForward);
static void groupnorm_forward_cpu(const Tensor& x, const Tensor& w, const Tensor& b, double eps, Tensor& y,
                                  Tensor& mean, Tensor& s) {
  HWY_DYNAMIC_DISPATCH(GroupNormForward)(x, w, b, eps, y, mean, s);
}
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, double, Tensor&, Tensor&, Tensor&)>
    groupnorm_forward{"groupnorm_forward", groupnorm_forward_cpu};

HWY_EXPORT(GroupNormBackward);
static void groupnorm_backward_cpu(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& mean,
                                   const Tensor& s, Tensor& dx, Tensor& dw, Tensor& db) {
  HWY_DYNAMIC_DISPATCH(GroupNormBackward)(dy, x, w, mean, s, dx, dw, db);
}
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, Tensor&, Tensor&,
                      Tensor&)>
    groupnorm_backward{"groupnorm_backward", groupnorm_backward_cpu};

}  // namespace dattn
#endif
