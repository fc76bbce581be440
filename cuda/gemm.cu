// Matrix products: what holds for every library.
#include "cuda/gemm.h"

#include "cuda/context.h"

namespace dattn::cuda {

void gemm(const Gemm& shape, float alpha, const void* a, const void* b, float beta, void* c, const void* bias) {
  const Gemm& s = shape;
  check((s.in == Dtype::float32 || s.in == Dtype::bfloat16) && (s.out == Dtype::float32 || s.out == Dtype::bfloat16),
        "gemm: expected float32 or bfloat16 on cuda, got {} and {}", name(s.in), name(s.out));
  if (s.m == 0 || s.n == 0 || s.batch == 0) return;
  if (s.k > 0) return detail::multiply(s, alpha, a, b, beta, c, bias);
  // An empty sum.
  check(!bias && (beta == 1 || (beta == 0 && s.ldc == s.n && (s.batch == 1 || s.stride_c == s.m * s.n))),
        "gemm: a product of no columns with a bias, a factor {} or gaps between rows", beta);
  if (beta == 0)
    check_cuda(cudaMemsetAsync(c, 0, static_cast<std::size_t>(s.batch * s.m * s.n) * size_of(s.out), stream()), "gemm");
}

}  // namespace dattn::cuda
