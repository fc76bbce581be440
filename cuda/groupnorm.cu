// GroupNorm: moments and sums for each channel of an image, joined by groups. Device twins of layers/groupnorm_cpu.cpp.
#include "layers/groupnorm.h"

#include "cuda/channel_sweeps.cuh"
#include "cuda/kernels.h"

namespace dattn::cuda {

namespace {

ChannelSweep by_image(const Tensor& x) {
  const std::int64_t N = x.size(0);
  return {N, N == 0 ? 0 : x.shape().rows() / N, x.size(-1)};
}

// A warp: mean and s of one group from the moments of its channels, var = mean over channels of var_c + (mean_c -
// mean)^2.
struct JoinChannels {
  const float *channel_mean, *channel_var;
  std::int64_t width;  // channels of a group
  float eps;
  float *mean, *s;
  __device__ void operator()(const WarpTeam& team) const {
    const float *m = channel_mean + team.row() * width, *v = channel_var + team.row() * width;
    const auto share = 1.0f / static_cast<float>(width);
    float off = 0, var = 0;  // the mean from that of the first channel
    for (std::int64_t c = team.index(); c < width; c += WarpTeam::kSize) off += m[c] - m[0];
    const float centre = m[0] + team.sum(off) * share;
    for (std::int64_t c = team.index(); c < width; c += WarpTeam::kSize)
      var += v[c] + (m[c] - centre) * (m[c] - centre);
    var = team.sum(var) * share;
    if (team.index() != 0) return;
    mean[team.row()] = centre;
    s[team.row()] = 1.0f / sqrtf(var + eps);
  }
};

template <typename S, int V>
struct Normalise {
  const S* x;
  const float *mean, *s, *w, *b;
  std::int64_t width;
  S* y;
  struct Own {
    Floats<V> mean, scale, shift;
  };
  __device__ Own channels(std::int64_t k, std::int64_t c) const {
    Own own{{}, {}, channel_numbers<V>(b + c)};
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const std::int64_t g = (k + v) / width;
      own.mean[v] = mean[g], own.scale[v] = w[c + v] * s[g];
    }
    return own;
  }
  __device__ void operator()(const Own& own, std::int64_t i) const {
    Floats<V> out = load<V>(x + i);
#pragma unroll
    for (int v = 0; v < V; ++v) out[v] = fmaf(out[v] - own.mean[v], own.scale[v], own.shift[v]);
    store<V>(y + i, out);
  }
};

// Sums of dy and dy (x - mean) over the pixels.
template <typename S, int V>
struct GradientSums {
  const S *dy, *x;
  const float* mean;
  std::int64_t width;
  __device__ Floats<V> channels(std::int64_t k, std::int64_t) const {
    Floats<V> own;
#pragma unroll
    for (int v = 0; v < V; ++v) own[v] = mean[(k + v) / width];
    return own;
  }
  __device__ void operator()(const Floats<V>& centre, std::int64_t i, Floats<V> (&sum)[2]) const {
    const Floats<V> g = load<V>(dy + i), here = load<V>(x + i);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      sum[0][v] += g[v];
      sum[1][v] = fmaf(g[v], here[v] - centre[v], sum[1][v]);
    }
  }
};

struct KeepSums {
  float *sum_dy, *sum_product;  // [N,C]
  __device__ void operator()(std::int64_t k, Floats<2> sum) const { sum_dy[k] = sum[0], sum_product[k] = sum[1]; }
};

// A warp: dw and db of one channel.
struct AddOverImages {
  const float *sum_dy, *sum_product, *s;
  std::int64_t images, C, width;
  float *dw, *db;
  __device__ void operator()(const WarpTeam& team) const {
    float to_w = 0, to_b = 0;
    for (std::int64_t n = team.index(); n < images; n += WarpTeam::kSize) {
      const std::int64_t k = n * C + team.row();
      to_w = fmaf(sum_product[k], s[k / width], to_w);
      to_b += sum_dy[k];
    }
    to_w = team.sum(to_w), to_b = team.sum(to_b);
    if (team.index() != 0) return;
    if (dw != nullptr) dw[team.row()] += to_w;
    if (db != nullptr) db[team.row()] += to_b;
  }
};

// A warp: the factors q = -s^2 mean(g xhat) and r = -s mean(g) of one group, of R values.
struct GradientFactors {
  const float *sum_dy, *sum_product, *s, *w;
  std::int64_t groups, width;
  float share;  // 1 / R
  float *q, *r;
  __device__ void operator()(const WarpTeam& team) const {
    const float *sums = sum_dy + team.row() * width, *products = sum_product + team.row() * width,
                *wg = w + team.row() % groups * width;
    float g = 0, g_centred = 0;
    for (std::int64_t c = team.index(); c < width; c += WarpTeam::kSize) {
      g = fmaf(wg[c], sums[c], g);
      g_centred = fmaf(wg[c], products[c], g_centred);
    }
    g = team.sum(g), g_centred = team.sum(g_centred);
    if (team.index() != 0) return;
    const float sg = s[team.row()];
    q[team.row()] = -sg * sg * sg * g_centred * share;
    r[team.row()] = -sg * g * share;
  }
};

// dx = dy w s + (x - mean) q + r.
template <typename S, int V>
struct Gradient {
  const S *dy, *x;
  const float *mean, *s, *w, *q, *r;
  std::int64_t width;
  S* dx;
  struct Own {
    Floats<V> mean, p, q, r;
  };
  __device__ Own channels(std::int64_t k, std::int64_t c) const {
    Own own;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const std::int64_t g = (k + v) / width;
      own.mean[v] = mean[g], own.p[v] = w[c + v] * s[g], own.q[v] = q[g], own.r[v] = r[g];
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

}  // namespace

void groupnorm_forward_cuda(const Tensor& x, const Tensor& w, const Tensor& b, double eps, Tensor& y, Tensor& mean,
                            Tensor& s) {
  const ChannelSweep sweep = by_image(x);
  const std::int64_t all = sweep.segments * sweep.channels, G = mean.size(1), width = sweep.channels / G;
  Scratch<float> moments(2 * all);
  dispatch_storage("groupnorm", x.dtype(), [&]<typename S>() {
    channel_moments("groupnorm_moments", sweep, x.data<S>(), moments.data(), moments.data() + all);
    for_each_warp("groupnorm_join", mean.elements(),
                  JoinChannels{moments.data(), moments.data() + all, width, static_cast<float>(eps), mean.data<float>(),
                               s.data<float>()});
    dispatch_width<S>(sweep.channels, {x.raw(), y.raw()}, [&]<int V>() {
      channel_map<V>("groupnorm_forward", sweep,
                     Normalise<S, V>{x.data<S>(), mean.data<float>(), s.data<float>(), w.data<float>(), b.data<float>(),
                                     width, y.data<S>()});
    });
  });
}

void groupnorm_backward_cuda(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& mean, const Tensor& s,
                             Tensor& dx, Tensor& dw, Tensor& db) {
  const ChannelSweep sweep = by_image(x);
  const std::int64_t N = sweep.segments, C = sweep.channels, G = mean.size(1), width = C / G;
  Scratch<float> scratch(2 * N * C + 2 * N * G);
  float *sum_dy = scratch.data(), *sum_product = sum_dy + N * C, *q = sum_product + N * C, *r = q + N * G;
  dispatch_storage("groupnorm", x.dtype(), [&]<typename S>() {
    dispatch_width<S>(C, {dy.raw(), x.raw()}, [&]<int V>() {
      channel_sums<V, 2>("groupnorm_backward_sums", sweep,
                         GradientSums<S, V>{dy.data<S>(), x.data<S>(), mean.data<float>(), width},
                         KeepSums{sum_dy, sum_product});
    });
    if (dw || db) {
      for_each_warp("groupnorm_backward_parameters", C,
                    AddOverImages{sum_dy, sum_product, s.data<float>(), N, C, width, dw ? dw.data<float>() : nullptr,
                                  db ? db.data<float>() : nullptr});
    }
    if (!dx) return;
    for_each_warp("groupnorm_backward_factors", N * G,
                  GradientFactors{sum_dy, sum_product, s.data<float>(), w.data<float>(), G, width,
                                  1.0f / static_cast<float>(sweep.rows * width), q, r});
    dispatch_width<S>(C, {dy.raw(), x.raw(), dx.raw()}, [&]<int V>() {
      channel_map<V>("groupnorm_backward", sweep,
                     Gradient<S, V>{dy.data<S>(), x.data<S>(), mean.data<float>(), s.data<float>(), w.data<float>(), q,
                                    r, width, dx.data<S>()});
    });
  });
}

}  // namespace dattn::cuda
