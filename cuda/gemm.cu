// Matrix products: what holds for every library.
#include "cuda/gemm.h"

#include "cuda/common.cuh"

namespace dattn::cuda {

namespace {

template <typename To, typename From>
struct Convert {
  const From* from;
  To* to;
  __device__ void operator()(std::int64_t i) const { store(to + i, load(from + i)); }
};

// Elements from the first to the last of the stored matrices [rows, columns] of a batch.
std::int64_t span(std::int64_t rows, std::int64_t columns, std::int64_t ld, std::int64_t batch, std::int64_t stride) {
  return (batch - 1) * stride + (rows - 1) * ld + columns;
}

// `count` elements as float32: themselves, or a copy.
class InFloat32 {
 public:
  InFloat32(void* data, Dtype dtype, std::int64_t count) : data_(data), count_(count) {
    if (dtype == Dtype::float32 || !data) return;
    copy_ = Tensor::empty({count}, Dtype::float32, Device::cuda);
    for_each_item("gemm", count, Convert<float, bfloat16>{static_cast<const bfloat16*>(data), copy_.data<float>()});
  }
  void* data() { return copy_ ? copy_.raw() : data_; }
  void write_back() {
    if (!copy_) return;
    for_each_item("gemm", count_, Convert<bfloat16, float>{copy_.data<float>(), static_cast<bfloat16*>(data_)});
  }

 private:
  void* data_;
  std::int64_t count_;
  Tensor copy_;
};

}  // namespace

void detail::multiply_in_float32(const Gemm& shape, float alpha, const void* a, const void* b, float beta, void* c,
                                 const void* bias, const void* d) {
  Gemm s = shape;
  const bool ta = s.ta == Trans::yes, tb = s.tb == Trans::yes;
  const std::int64_t result = span(s.m, s.n, s.ldc, s.batch, s.stride_c);  // with what lies between its rows
  InFloat32 left(const_cast<void*>(a), s.in, span(ta ? s.k : s.m, ta ? s.m : s.k, s.lda, s.batch, s.stride_a));
  InFloat32 right(const_cast<void*>(b), s.in, span(tb ? s.n : s.k, tb ? s.k : s.n, s.ldb, s.batch, s.stride_b));
  InFloat32 product(c, s.out, result), before(d == c ? nullptr : const_cast<void*>(d), s.out, result);
  InFloat32 shift(const_cast<void*>(bias), s.out, s.n);
  s.in = s.out = Dtype::float32;
  multiply(s, alpha, left.data(), right.data(), beta, product.data(), shift.data(),
           d == c ? product.data() : before.data());
  product.write_back();
}

void gemm(const Gemm& shape, float alpha, const void* a, const void* b, float beta, void* c, const void* bias,
          const void* d) {
  const Gemm& s = shape;
  check((s.in == Dtype::float32 || s.in == Dtype::bfloat16) && (s.out == Dtype::float32 || s.out == Dtype::bfloat16),
        "gemm: expected float32 or bfloat16 on cuda, got {} and {}", name(s.in), name(s.out));
  if (s.m == 0 || s.n == 0 || s.batch == 0) return;
  if (s.k > 0) {
    const bool exact = s.in == Dtype::float32 && s.out == Dtype::float32;
    const auto multiply = exact || device().has_bfloat16_mma() ? detail::multiply : detail::multiply_in_float32;
    return multiply(s, alpha, a, b, beta, c, bias, d ? d : c);
  }
  // An empty sum.
  check(!bias && !d && (beta == 1 || (beta == 0 && s.ldc == s.n && (s.batch == 1 || s.stride_c == s.m * s.n))),
        "gemm: a product of no columns with a bias, a factor {} or gaps between rows", beta);
  if (beta == 0)
    check_cuda(cudaMemsetAsync(c, 0, static_cast<std::size_t>(s.batch * s.m * s.n) * size_of(s.out), stream()), "gemm");
}

}  // namespace dattn::cuda
