// Activations and softmax: device twins of layers/activation_cpu.cpp.
#include "cuda/activation_formulas.cuh"
#include "cuda/kernels.h"
#include "cuda/sums.cuh"

namespace dattn::cuda {

namespace {

// --- element by element ---

template <typename Formula>
struct Value {
  __device__ float operator()(float x) const { return Formula::value(x); }
};

template <typename Formula>
struct TimesSlope {
  __device__ float operator()(float dy, float saved) const { return dy * Formula::slope(saved); }
};

// --- softmax ---

template <typename Team, typename S>
__global__ void softmax_kernel(const S* x, std::int64_t rows, std::int64_t columns, S* y) {
  const Team team;
  const std::int64_t first = row_within(team, rows) * columns;
  const S* xr = x + first;
  S* yr = y + first;
  float most = -INFINITY, sum = 0;
  for (std::int64_t c = team.index(); c < columns; c += Team::kSize) most = fmaxf(most, load(xr + c));
  most = team.max(most);
  for (std::int64_t c = team.index(); c < columns; c += Team::kSize) sum += expf(load(xr + c) - most);
  const float scale = 1.0f / team.sum(sum);
  if (team.row() >= rows) return;
  for (std::int64_t c = team.index(); c < columns; c += Team::kSize) store(yr + c, scale * expf(load(xr + c) - most));
}

template <typename Team, typename S>
__global__ void softmax_backward_kernel(const S* dy, const S* y, std::int64_t rows, std::int64_t columns, S* dx) {
  const Team team;
  const std::int64_t first = row_within(team, rows) * columns;
  float mean = 0;  // of dy under the distribution y
  for (std::int64_t c = team.index(); c < columns; c += Team::kSize) mean += load(dy + first + c) * load(y + first + c);
  mean = team.sum(mean);
  if (team.row() >= rows) return;
  for (std::int64_t c = team.index(); c < columns; c += Team::kSize)
    store(dx + first + c, load(y + first + c) * (load(dy + first + c) - mean));
}

}  // namespace

void activation_forward_cuda(Activation kind, const Tensor& x, Tensor& y) {
  dispatch_storage(name(kind), x.dtype(), [&]<typename S>() {
    dispatch_activation<S>(kind, [&]<typename Formula>() {
      map_elements("activation_forward", x.elements(), Value<Formula>{}, y.data<S>(), x.data<S>());
    });
  });
}

void activation_backward_cuda(Activation kind, const Tensor& dy, const Tensor& saved, Tensor& dx) {
  dispatch_storage(name(kind), dy.dtype(), [&]<typename S>() {
    dispatch_activation<S>(kind, [&]<typename Formula>() {
      map_elements("activation_backward", dy.elements(), TimesSlope<Formula>{}, dx.data<S>(), dy.data<S>(),
                   saved.data<S>());
    });
  });
}

void softmax_forward_cuda(const Tensor& x, Tensor& y) {
  const std::int64_t rows = x.shape().rows(), columns = x.size(-1);
  dispatch_storage("softmax", x.dtype(), [&]<typename S>() {
    dispatch_team(rows, columns, [&]<typename Team>(const Grid& grid) {
      launch("softmax_forward", softmax_kernel<Team, S>, grid, x.data<S>(), rows, columns, y.data<S>());
    });
  });
}

void softmax_backward_cuda(const Tensor& dy, const Tensor& y, Tensor& dx) {
  const std::int64_t rows = dy.shape().rows(), columns = dy.size(-1);
  dispatch_storage("softmax", dy.dtype(), [&]<typename S>() {
    dispatch_team(rows, columns, [&]<typename Team>(const Grid& grid) {
      launch("softmax_backward", softmax_backward_kernel<Team, S>, grid, dy.data<S>(), y.data<S>(), rows, columns,
             dx.data<S>());
    });
  });
}

}  // namespace dattn::cuda
