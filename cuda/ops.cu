// Basic operations that compute: element by element, and sums. Device twins of core/ops_cpu.cpp.
#include "core/loops.h"
#include "cuda/kernels.h"
#include "cuda/sums.cuh"

namespace dattn::cuda {

namespace {

// --- element by element ---

struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};

struct Mul {
  __device__ float operator()(float a, float b) const { return a * b; }
};

struct Scale {
  float factor;
  __device__ float operator()(float x) const { return factor * x; }
};

// --- sums: x [outer, n, inner] in parts along n, whose sums are added in order ---

// partial [outer, parts]: for inner = 1 a block sums a part.
template <typename S>
__global__ void sum_rows_kernel(const S* x, std::int64_t n, std::int64_t part, std::int64_t parts, float* partial) {
  const std::int64_t begin = blockIdx.x % parts * part, end = begin + part < n ? begin + part : n;
  const S* row = x + blockIdx.x / parts * n;
  float sum = 0;
  for (std::int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) sum += load(row + i);
  sum = BlockTeam().sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// partial [outer, parts, inner]: a thread sums a part of a column.
template <typename S>
struct SumColumns {
  const S* x;
  std::int64_t n, inner, part, parts;
  float* partial;
  __device__ void operator()(std::int64_t i) const {
    const std::int64_t c = i % inner, p = i / inner % parts, o = i / inner / parts;
    const std::int64_t begin = p * part, end = begin + part < n ? begin + part : n;
    float sum = 0;
    for (std::int64_t r = begin; r < end; ++r) sum += load(x + (o * n + r) * inner + c);
    partial[i] = sum;
  }
};

template <typename S>
struct SumParts {
  const float* partial;
  std::int64_t parts, inner;
  float factor;
  S* y;
  template <typename Team>
  __device__ void operator()(const Team& team) const {
    const float* first = partial + team.row() / inner * parts * inner + team.row() % inner;
    const float sum = team.sum_of(parts, [&](std::int64_t p) { return first[p * inner]; });
    if (team.index() == 0) store(y + team.row(), factor * sum);
  }
};

template <typename S>
struct Spread {
  const S* dy;
  std::int64_t n, inner;
  float factor;
  S* dx;
  __device__ void operator()(std::int64_t i) const {
    store(dx + i, factor * load(dy + i / inner / n * inner + i % inner));
  }
};

}  // namespace

void add_forward_cuda(const Tensor& a, const Tensor& b, Tensor& y) {
  dispatch_storage("add", y.dtype(), [&]<typename S>() {
    map_elements("add_forward", y.elements(), Add{}, y.data<S>(), a.data<S>(), b.data<S>());
  });
}

void mul_forward_cuda(const Tensor& a, const Tensor& b, Tensor& y) {
  dispatch_storage("mul", y.dtype(), [&]<typename S>() {
    map_elements("mul_forward", y.elements(), Mul{}, y.data<S>(), a.data<S>(), b.data<S>());
  });
}

void scale_forward_cuda(const Tensor& x, double factor, Tensor& y) {
  dispatch_storage("scale", y.dtype(), [&]<typename S>() {
    map_elements("scale_forward", y.elements(), Scale{static_cast<float>(factor)}, y.data<S>(), x.data<S>());
  });
}

void sum_forward_cuda(const Tensor& x, int dim, double factor, Tensor& y) {
  const Split s(x.shape(), dim);
  constexpr std::int64_t kRowPart = 8192, kColumnPart = 64, kMostParts = 256;
  const std::int64_t least = s.inner == 1 ? kRowPart : kColumnPart;
  const std::int64_t part = std::max(least, (s.n + kMostParts - 1) / kMostParts),
                     parts = std::max<std::int64_t>(1, (s.n + part - 1) / part);
  Scratch<float> partial(s.outer * parts * s.inner);
  dispatch_storage("sum", y.dtype(), [&]<typename S>() {
    if (s.inner == 1) {
      launch("sum_forward", sum_rows_kernel<S>, {static_cast<unsigned>(s.outer * parts), kThreads}, x.data<S>(), s.n,
             part, parts, partial.data());
    } else {
      for_each_item("sum_forward", s.outer * parts * s.inner,
                    SumColumns<S>{x.data<S>(), s.n, s.inner, part, parts, partial.data()});
    }
    for_each_sum("sum_forward", y.elements(), parts,
                 SumParts<S>{partial.data(), parts, s.inner, static_cast<float>(factor), y.data<S>()});
  });
}

void sum_backward_cuda(const Tensor& dy, int dim, double factor, Tensor& dx) {
  const Split s(dx.shape(), dim);
  dispatch_storage("sum", dx.dtype(), [&]<typename S>() {
    for_each_item("sum_backward", dx.elements(),
                  Spread<S>{dy.data<S>(), s.n, s.inner, static_cast<float>(factor), dx.data<S>()});
  });
}

}  // namespace dattn::cuda
