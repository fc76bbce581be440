// CPU kernels of BatchNorm with GELU: one sweep forward, two backward. Each makes z again, which costs less than to
// write and read it.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/batchnorm_gelu_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <cmath>

#include "layers/activation_formulas-inl.h"
#include "layers/batchnorm_gelu.h"
#include "layers/channel_sweeps-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// Rows [C] of numbers of every channel: the mean, w s, the shift b, and for backward q and r.
template <typename T>
struct ChannelRows {
  std::int64_t channels;
  Scratch<T> data;
  ChannelRows(const Tensor& mean, const Tensor& var, const Tensor& w, const Tensor& b, double eps)
      : channels(mean.elements()), data(static_cast<std::size_t>(5 * channels)) {
    std::copy_n(mean.data<T>(), channels, row(0));
    for (std::int64_t c = 0; c < channels; ++c)
      row(1)[c] = static_cast<T>(w.data<T>()[c] / std::sqrt(var.data<T>()[c] + eps));
    std::copy_n(b.data<T>(), channels, row(2));
    std::fill_n(row(3), 2 * channels, T(0));
  }
  T* row(std::int64_t k) { return data.data() + k * channels; }
};

// The lanes' own numbers out of rows that are repeated over a period.
template <class D, typename T>
HWY_INLINE hn::Vec<D> load_row(D d, const T* lanes, std::int64_t period, std::int64_t k) {
  return hn::LoadU(d, lanes + k * period);
}

// x - mean, and from it dz = dy gelu'(z).
template <class D, typename S, typename T = Exact<S>>
struct CentredGradient {
  hn::Vec<D> centred, dz;
  HWY_INLINE CentredGradient(D d, const S* dy, const S* x, const T* lanes, std::int64_t period)
      : centred(hn::Sub(load(d, x), load_row(d, lanes, period, 0))) {
    const auto z = hn::MulAdd(centred, load_row(d, lanes, period, 1), load_row(d, lanes, period, 2));
    dz = hn::Mul(load(d, dy), GeluErfFormula::slope(d, z));
  }
};

// Calls f(d, i, lanes) for all vectors of x, i being their element and `lanes` the first `rows` rows of theirs.
template <typename T, typename F>
HWY_INLINE void for_channel_lanes(const ChannelSweep& sweep, ChannelRows<T>& rows, std::int64_t count, F&& f) {
  sweep.for_tiles([&](std::int64_t, std::int64_t, std::int64_t begin, std::int64_t elements) HWY_ATTR {
    Scratch<T> repeated(static_cast<std::size_t>(count * sweep.period));
    for (std::int64_t k = 0; k < count; ++k) repeat_channels(sweep, rows.row(k), repeated.data() + k * sweep.period);
    for_periods<T>(elements, sweep.period,
                   [&](auto d, std::int64_t i, std::int64_t j) HWY_ATTR { f(d, begin + i, repeated.data() + j); });
  });
}

void BatchNormGeluForward(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w, const Tensor& b,
                          double eps, Tensor& y) {
  dispatch_activations("batchnorm_gelu", x.dtype(), [&]<typename S>() HWY_ATTR {
    using T = Exact<S>;
    ChannelRows<T> rows(mean, var, w, b, eps);
    const ChannelSweep sweep(1, x.shape().rows(), x.size(-1));
    const S* px = x.data<S>();
    S* py = y.data<S>();
    for_channel_lanes(sweep, rows, 3, [&](auto d, std::int64_t i, const T* lanes) HWY_ATTR {
      const auto centred = hn::Sub(load(d, px + i), load_row(d, lanes, sweep.period, 0));
      const auto z = hn::MulAdd(centred, load_row(d, lanes, sweep.period, 1), load_row(d, lanes, sweep.period, 2));
      store(GeluErfFormula::value(d, z), d, py + i);
    });
  });
}

void BatchNormGeluBackwardSums(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var,
                               const Tensor& w, const Tensor& b, double eps, Tensor& sum_dz, Tensor& sum_dz_xhat) {
  dispatch_activations("batchnorm_gelu", x.dtype(), [&]<typename S>() HWY_ATTR {
    using T = Exact<S>;
    ChannelRows<T> rows(mean, var, w, b, eps);
    const ChannelSweep sweep(1, x.shape().rows(), x.size(-1));
    const S *pdy = dy.data<S>(), *px = x.data<S>();
    channel_sums<T>(sweep, {rows.row(0), rows.row(1), rows.row(2)}, sum_dz.data<T>(), sum_dz_xhat.data<T>(),
                    [&](auto d, std::int64_t i, const T* lanes, auto& sum, auto& product) HWY_ATTR {
                      const CentredGradient<decltype(d), S> g(d, pdy + i, px + i, lanes, sweep.period);
                      sum = hn::Add(sum, g.dz);
                      product = hn::MulAdd(g.dz, g.centred, product);
                    });
    T* product = sum_dz_xhat.data<T>();
    for (std::int64_t c = 0; c < x.size(-1); ++c)
      product[c] = static_cast<T>(product[c] / std::sqrt(var.data<T>()[c] + eps));
  });
}

// dx = dz w s + (x - mean) q + r with q = -w s^2 dw / R, r = -w s db / R; both are 0 in evaluation.
void BatchNormGeluBackward(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w,
                           const Tensor& b, double eps, const Tensor& sum_dz, const Tensor& sum_dz_xhat, Tensor& dx) {
  dispatch_activations("batchnorm_gelu", x.dtype(), [&]<typename S>() HWY_ATTR {
    using T = Exact<S>;
    ChannelRows<T> rows(mean, var, w, b, eps);
    const ChannelSweep sweep(1, x.shape().rows(), x.size(-1));
    const auto R = static_cast<double>(sweep.rows);
    for (std::int64_t c = 0; sum_dz && c < sweep.channels; ++c) {
      const double s = 1 / std::sqrt(var.data<T>()[c] + eps), ws = rows.row(1)[c];
      rows.row(3)[c] = static_cast<T>(-ws * s * sum_dz_xhat.data<T>()[c] / R);
      rows.row(4)[c] = static_cast<T>(-ws * sum_dz.data<T>()[c] / R);
    }
    const S *pdy = dy.data<S>(), *px = x.data<S>();
    S* pdx = dx.data<S>();
    for_channel_lanes(sweep, rows, 5, [&](auto d, std::int64_t i, const T* lanes) HWY_ATTR {
      const CentredGradient<decltype(d), S> g(d, pdy + i, px + i, lanes, sweep.period);
      const auto rest = hn::MulAdd(g.centred, load_row(d, lanes, sweep.period, 3), load_row(d, lanes, sweep.period, 4));
      store(hn::MulAdd(g.dz, load_row(d, lanes, sweep.period, 1), rest), d, pdx + i);
    });
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(BatchNormGeluForward);
static void batchnorm_gelu_forward_cpu(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w,
                                       const Tensor& b, double eps, Tensor& y) {
  HWY_DYNAMIC_DISPATCH(BatchNormGeluForward)(x, mean, var, w, b, eps, y);
}
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, double, Tensor&)>
    batchnorm_gelu_forward{"batchnorm_gelu_forward", batchnorm_gelu_forward_cpu, Bfloat16::native};

HWY_EXPORT(BatchNormGeluBackwardSums);
static void batchnorm_gelu_backward_sums_cpu(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var,
                                             const Tensor& w, const Tensor& b, double eps, Tensor& sum_dz,
                                             Tensor& sum_dz_xhat) {
  HWY_DYNAMIC_DISPATCH(BatchNormGeluBackwardSums)(dy, x, mean, var, w, b, eps, sum_dz, sum_dz_xhat);
}
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, double,
                      Tensor&, Tensor&)>
    batchnorm_gelu_backward_sums{"batchnorm_gelu_backward_sums", batchnorm_gelu_backward_sums_cpu, Bfloat16::native};

HWY_EXPORT(BatchNormGeluBackward);
static void batchnorm_gelu_backward_cpu(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var,
                                        const Tensor& w, const Tensor& b, double eps, const Tensor& sum_dz,
                                        const Tensor& sum_dz_xhat, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(BatchNormGeluBackward)(dy, x, mean, var, w, b, eps, sum_dz, sum_dz_xhat, dx);
}
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, double,
                      const Tensor&, const Tensor&, Tensor&)>
    batchnorm_gelu_backward{"batchnorm_gelu_backward", batchnorm_gelu_backward_cpu, Bfloat16::native};

}  // namespace dattn
#endif
