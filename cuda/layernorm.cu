// LayerNorm: a team of threads normalises a row; the parameters' gradients are column sums. Device twins of
// layers/layernorm_cpu.cpp.
#include "layers/layernorm.h"

#include "cuda/kernels.h"
#include "cuda/sums.cuh"

namespace dattn::cuda {

namespace {

struct RowMoments {
  float mean, s;
};

// Mean and s of a row, for every thread of the team: the mean from its first element, then the squares about it.
template <typename Team, typename S>
__device__ RowMoments row_moments(const Team& team, const S* x, std::int64_t C, float eps) {
  const float origin = load(x), share = 1.0f / static_cast<float>(C);
  float off = 0, squares = 0;
  for (std::int64_t c = team.index(); c < C; c += Team::kSize) off += load(x + c) - origin;
  const float mean = origin + team.sum(off) * share;
  for (std::int64_t c = team.index(); c < C; c += Team::kSize) {
    const float v = load(x + c) - mean;
    squares = fmaf(v, v, squares);
  }
  return {mean, 1.0f / sqrtf(team.sum(squares) * share + eps)};
}

template <typename Team, typename S>
__global__ void layernorm_kernel(const S* x, const float* w, const float* b, std::int64_t rows, std::int64_t C,
                                 float eps, S* y) {
  const Team team;
  const std::int64_t row = row_within(team, rows);
  const S* xr = x + row * C;
  S* yr = y + row * C;
  const RowMoments of = row_moments(team, xr, C, eps);
  if (team.row() >= rows) return;
  for (std::int64_t c = team.index(); c < C; c += Team::kSize)
    store(yr + c, fmaf((load(xr + c) - of.mean) * of.s, w[c], b[c]));
}

// moments [rows,2] and, unless it is null, dx.
template <typename Team, typename S>
__global__ void layernorm_backward_kernel(const S* dy, const S* x, const float* w, std::int64_t rows, std::int64_t C,
                                          float eps, S* dx, float* moments) {
  const Team team;
  const std::int64_t row = row_within(team, rows);
  const S *xr = x + row * C, *gr = dy + row * C;
  const RowMoments of = row_moments(team, xr, C, eps);
  if (team.row() < rows && team.index() == 0) moments[2 * row] = of.mean, moments[2 * row + 1] = of.s;
  if (dx == nullptr) return;
  float g = 0, g_xhat = 0;
  for (std::int64_t c = team.index(); c < C; c += Team::kSize) {
    const float v = load(gr + c) * w[c];
    g += v;
    g_xhat = fmaf(v, (load(xr + c) - of.mean) * of.s, g_xhat);
  }
  g = team.sum(g) / static_cast<float>(C);
  g_xhat = team.sum(g_xhat) / static_cast<float>(C);
  if (team.row() >= rows) return;
  for (std::int64_t c = team.index(); c < C; c += Team::kSize) {
    const float xhat = (load(xr + c) - of.mean) * of.s;
    store(dx + row * C + c, of.s * (load(gr + c) * w[c] - g - xhat * g_xhat));
  }
}

// dy xhat and dy, whose column sums are dw and db.
template <typename S>
struct ParameterTerms {
  const S *dy, *x;
  const float* moments;
  std::int64_t C;
  __device__ Floats<2> operator()(std::int64_t row, std::int64_t c) const {
    const float g = load(dy + row * C + c);
    return {{g * (load(x + row * C + c) - moments[2 * row]) * moments[2 * row + 1], g}};
  }
};

struct AddParameters {
  float *dw, *db;
  __device__ void operator()(std::int64_t c, Floats<2> sum) const {
    if (dw != nullptr) dw[c] += sum[0];
    if (db != nullptr) db[c] += sum[1];
  }
};

}  // namespace

void layernorm_forward_cuda(const Tensor& x, const Tensor& w, const Tensor& b, double eps, Tensor& y) {
  const std::int64_t rows = x.shape().rows(), C = x.size(-1);
  dispatch_storage("layernorm", x.dtype(), [&]<typename S>() {
    dispatch_team(rows, C, [&]<typename Team>(const Grid& grid) {
      launch("layernorm_forward", layernorm_kernel<Team, S>, grid, x.data<S>(), w.data<float>(), b.data<float>(), rows,
             C, static_cast<float>(eps), y.data<S>());
    });
  });
}

void layernorm_backward_cuda(const Tensor& dy, const Tensor& x, const Tensor& w, double eps, Tensor& dx, Tensor& dw,
                             Tensor& db) {
  const std::int64_t rows = x.shape().rows(), C = x.size(-1);
  Scratch<float> moments(2 * rows);
  dispatch_storage("layernorm", x.dtype(), [&]<typename S>() {
    dispatch_team(rows, C, [&]<typename Team>(const Grid& grid) {
      launch("layernorm_backward", layernorm_backward_kernel<Team, S>, grid, dy.data<S>(), x.data<S>(), w.data<float>(),
             rows, C, static_cast<float>(eps), dx ? dx.data<S>() : nullptr, moments.data());
    });
    if (!dw && !db) return;
    column_sums<2>("layernorm_backward_parameters", rows, C,
                   ParameterTerms<S>{dy.data<S>(), x.data<S>(), moments.data(), C},
                   AddParameters{dw ? dw.data<float>() : nullptr, db ? db.data<float>() : nullptr});
  });
}

}  // namespace dattn::cuda
