// The matrix product of tensors: device twin of core/ops_matmul_cpu.cpp.
#include "cuda/gemm.h"
#include "cuda/kernels.h"

namespace dattn::cuda {

void matmul_forward_cuda(const Tensor& a, Trans ta, const Tensor& b, Trans tb, Tensor& y) {
  const std::int64_t m = y.size(-2), n = y.size(-1), k = a.size(ta == Trans::yes ? -2 : -1);
  gemm({.ta = ta,
        .tb = tb,
        .m = m,
        .n = n,
        .k = k,
        .lda = a.size(-1),
        .ldb = b.size(-1),
        .ldc = n,
        .in = a.dtype(),
        .out = y.dtype(),
        .batch = y.shape().leading(y.rank() - 2),
        .stride_a = m * k,
        .stride_b = k * n,
        .stride_c = m * n},
       1, a.raw(), b.raw(), 0, y.raw());
}

}  // namespace dattn::cuda
