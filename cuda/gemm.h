// Matrix products on the device, row-major: cuBLASLt in the real build (cuda/gemm_cublas.cu), plain code on the host in
// the emulation. Sums are float32, without TF32; the same shapes give the same bits.
#pragma once

#include <compare>
#include <cstdint>

#include "core/dtype.h"
#include "core/gemm.h"
#include "core/tensor.h"
#include "cuda/memory.h"

namespace dattn::cuda {

/// C = alpha op(A) op(B) + beta D [+ bias in every row], `batch` times. op(A) is [m,k], op(B) [k,n], C and D [m,n]; D
/// is C itself unless it is given. lda, ldb, ldc are the lengths of the stored rows, strides lead from one product of
/// the batch to the next.
struct Gemm {
  Trans ta = Trans::no, tb = Trans::no;
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t lda = 0, ldb = 0, ldc = 0;
  Dtype in = Dtype::float32, out = Dtype::float32;  ///< of A and B, and of C, D and bias: float32 or bfloat16
  std::int64_t batch = 1, stride_a = 0, stride_b = 0, stride_c = 0;
  bool has_bias = false;  ///< bias [n]

  auto operator<=>(const Gemm&) const = default;
};

void gemm(const Gemm& shape, float alpha, const void* a, const void* b, float beta, void* c, const void* bias = nullptr,
          const void* d = nullptr);

/// x in another type for the length of a scope: itself where it has that type, a converted copy in scratch memory
/// otherwise. Parameters are float32, and products take both factors in one type.
class Converted {
 public:
  Converted(const Tensor& x, Dtype dtype) : tensor_(x ? x.to(dtype) : x) {}
  const void* data() const { return tensor_.raw(); }

 private:
  Tensor tensor_;
};

namespace detail {
/// gemm() where no size is 0 and d is given; the library's side.
void multiply(const Gemm& shape, float alpha, const void* a, const void* b, float beta, void* c, const void* bias,
              const void* d);
/// The same by float32 copies, where the library has no such product in bfloat16 (on any device before sm_80).
void multiply_in_float32(const Gemm& shape, float alpha, const void* a, const void* b, float beta, void* c,
                         const void* bias, const void* d);
}  // namespace detail

}  // namespace dattn::cuda
