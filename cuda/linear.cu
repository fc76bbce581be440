// The linear layer: products over rows by the library, with the bias in their epilogue, and column sums for its
// gradient. Device twins of layers/linear_cpu.cpp.
#include "cuda/gemm.h"
#include "cuda/kernels.h"
#include "cuda/sums.cuh"

namespace dattn::cuda {

namespace {

template <typename S>
struct Element {
  const S* x;
  std::int64_t C;
  __device__ Floats<1> operator()(std::int64_t row, std::int64_t c) const { return {{load(x + row * C + c)}}; }
};

struct AddTo {
  float* sums;
  __device__ void operator()(std::int64_t c, Floats<1> sum) const { sums[c] += sum[0]; }
};

}  // namespace

void linear_forward_cuda(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y) {
  const std::int64_t out = w.size(0), in = w.size(1);
  const Converted weight(w, x.dtype()), bias(b, y.dtype());
  gemm({.tb = Trans::yes,
        .m = x.shape().rows(),
        .n = out,
        .k = in,
        .lda = in,
        .ldb = in,
        .ldc = out,
        .in = x.dtype(),
        .out = y.dtype(),
        .has_bias = b.defined()},
       1, x.raw(), weight.data(), 0, y.raw(), bias.data());
}

void linear_backward_data_cuda(const Tensor& dy, const Tensor& w, Tensor& dx) {
  const std::int64_t out = w.size(0), in = w.size(1);
  const Converted weight(w, dy.dtype());
  gemm({.m = dy.shape().rows(),
        .n = in,
        .k = out,
        .lda = out,
        .ldb = in,
        .ldc = in,
        .in = dy.dtype(),
        .out = dx.dtype()},
       1, dy.raw(), weight.data(), 0, dx.raw());
}

void linear_backward_weight_cuda(const Tensor& dy, const Tensor& x, Tensor& dw) {
  const std::int64_t out = dw.size(0), in = dw.size(1);
  const Converted gradient(dy, x.dtype());  // DAttention's are float32 beside activations in bfloat16
  gemm({.ta = Trans::yes,
        .m = out,
        .n = in,
        .k = dy.shape().rows(),
        .lda = out,
        .ldb = in,
        .ldc = in,
        .in = x.dtype(),
        .out = dw.dtype()},
       1, gradient.data(), x.raw(), 1, dw.raw());
}

void bias_backward_cuda(const Tensor& dy, Tensor& db) {
  const std::int64_t C = db.elements();
  dispatch_storage("bias", dy.dtype(), [&]<typename S>() {
    column_sums<1>("bias_backward", C == 0 ? 0 : dy.elements() / C, C, Element<S>{dy.data<S>(), C},
                   AddTo{db.data<float>()});
  });
}

}  // namespace dattn::cuda
