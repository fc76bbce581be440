// Muon: device twins of optim/muon_cpu.cpp and optim/newton_schulz_cpu.cpp. The iteration is the literal one, which
// looks at x itself in every step and so makes up for the rounding of the last: x is held in bfloat16, or in float32,
// and products are summed in float32. Norms stay on the device, and matrices of one shape go through each product
// together.
#include <algorithm>
#include <cmath>
#include <utility>

#include "cuda/gemm.h"
#include "cuda/kernels.h"
#include "cuda/updates.cuh"
#include "optim/muon.h"

namespace dattn::cuda {

namespace {

struct Momentum {
  const float* grad;
  float *m, *u;
  float momentum;
  bool nesterov;
  float scale = 0;

  __device__ void take(const MuonNumbers& numbers) { scale = static_cast<float>(numbers.gradient_scale); }
  __device__ void operator()(std::int64_t i) const {
    const float g = scale * grad[i], running = momentum * m[i] + g;
    m[i] = running;
    u[i] = nesterov ? momentum * running + g : running;
  }
};

// Sums of squares of every matrix of a tensor [count, O, I].
struct Squares {
  const double* partial;  // [count, parts]; null where the norm is not wanted
  std::int64_t parts;

  __device__ double norm(std::int64_t matrix) const { return sqrt(sum_parts(partial + matrix * parts, parts)); }
};

// x = u / (|u| + eps). Blocks [..., count], here and below.
template <typename S>
__global__ void start_kernel(const float* u, Squares squares, double eps, std::int64_t n, S* x) {
  const auto factor = static_cast<float>(1 / (squares.norm(blockIdx.y) + eps));
  const std::int64_t begin = blockIdx.y * n;
  for (std::int64_t i = first_item(); i < n; i += item_step()) store(x + begin + i, factor * u[begin + i]);
}

// w = keep w - lr rate_factor x, with keep sqrt(O) / |w| in place of keep where the norm of w is wanted.
template <typename S>
__global__ void finish_kernel(const S* x, Squares squares, double root, const MuonNumbers* numbers, double rate_factor,
                              std::int64_t n, float* w) {
  double keep = numbers->keep;
  if (squares.partial) {
    const double norm = squares.norm(blockIdx.y);
    if (norm > 0) keep *= root / norm;
  }
  const auto old = static_cast<float>(keep), rate = static_cast<float>(numbers->lr * rate_factor);
  const std::int64_t begin = blockIdx.y * n;
  for (std::int64_t i = first_item(); i < n; i += item_step()) {
    w[begin + i] = old * w[begin + i] - rate * load(x + begin + i);
  }
}

// A step takes x to a x + (b s + c s s) x with s = x x^T, or s = x^T x on the right where x is tall.
template <typename S>
class Iteration {
 public:
  explicit Iteration(const Shape& matrices)  // [count, O, I]
      : count_(matrices[0]),
        rows_(matrices[1]),
        columns_(matrices[2]),
        n_(std::min(rows_, columns_)),
        gram_(count_ * n_ * n_),
        polynomial_(count_ * n_ * n_) {}

  void step(const S* x, S* next) {
    const bool wide = rows_ <= columns_;
    const std::int64_t nn = n_ * n_, all = rows_ * columns_;
    gemm({.ta = wide ? Trans::no : Trans::yes,
          .tb = wide ? Trans::yes : Trans::no,
          .m = n_,
          .n = n_,
          .k = std::max(rows_, columns_),
          .lda = columns_,
          .ldb = columns_,
          .ldc = n_,
          .in = dtype_of<S>,
          .out = dtype_of<S>,
          .batch = count_,
          .stride_a = all,
          .stride_b = all,
          .stride_c = nn},
         1, x, x, 0, gram_.data());
    product(n_, n_, nn, nn, kMuonC, gram_.data(), gram_.data(), kMuonB, gram_.data(), polynomial_.data());
    product(rows_, columns_, wide ? nn : all, wide ? all : nn, 1, wide ? polynomial_.data() : x,
            wide ? x : polynomial_.data(), kMuonA, x, next);
  }

 private:
  // c = alpha a b + beta d, all without gaps; sums are over n_.
  void product(std::int64_t m, std::int64_t n, std::int64_t stride_a, std::int64_t stride_b, double alpha, const S* a,
               const S* b, double beta, const S* d, S* c) {
    gemm({.m = m,
          .n = n,
          .k = n_,
          .lda = n_,
          .ldb = n,
          .ldc = n,
          .in = dtype_of<S>,
          .out = dtype_of<S>,
          .batch = count_,
          .stride_a = stride_a,
          .stride_b = stride_b,
          .stride_c = m * n},
         static_cast<float>(alpha), a, b, static_cast<float>(beta), c, nullptr, d);
  }

  std::int64_t count_, rows_, columns_, n_;
  Scratch<S> gram_, polynomial_;  // [count, n, n]
};

template <typename S>
void update_matrices(const Tensor& u, Tensor& w, const Tensor& numbers, const MuonOptions& options) {
  const std::int64_t count = u.size(0), n = u.size(1) * u.size(2), parts = square_parts(n);
  Scratch<double> squares(2 * count * parts);
  const Squares of_u{squares.data(), parts};
  const Squares of_w{options.normalise_weights ? squares.data() + count * parts : nullptr, parts};
  sum_squares("muon_update", count, n, u.data<float>(), squares.data());
  if (of_w.partial) sum_squares("muon_update", count, n, w.data<float>(), squares.data() + count * parts);

  Grid grid = grid_for(n);
  grid.blocks.y = static_cast<unsigned>(count);
  Scratch<S> first(count * n), second(count * n);
  S *x = first.data(), *next = second.data();
  launch("muon_update", start_kernel<S>, grid, u.data<float>(), of_u, options.newton_schulz.eps, n, x);
  Iteration<S> iteration(u.shape());
  for (int i = 0; i < options.newton_schulz.steps; ++i, std::swap(x, next)) iteration.step(x, next);
  launch("muon_update", finish_kernel<S>, grid, x, of_w, std::sqrt(static_cast<double>(u.size(1))),
         numbers_in<MuonNumbers>(numbers), rate_factor(options.scale, u.size(1), u.size(2)), n, w.data<float>());
}

}  // namespace

void muon_momentum_cuda(const Tensor& grad, Tensor& m, Tensor& u, const Tensor& numbers, const MuonOptions& options) {
  for_each_update<MuonNumbers>("muon_momentum", grad.elements(), numbers,
                               Momentum{grad.data<float>(), m.data<float>(), u.data<float>(),
                                        static_cast<float>(options.momentum), options.nesterov});
}

void muon_update_cuda(Tensor& u, Tensor& w, const Tensor& numbers, const MuonOptions& options) {
  if (options.newton_schulz.bfloat16_on_device && device().has_bfloat16_mma()) {
    update_matrices<bfloat16>(u, w, numbers, options);
  } else {
    update_matrices<float>(u, w, numbers, options);
  }
}

}  // namespace dattn::cuda
