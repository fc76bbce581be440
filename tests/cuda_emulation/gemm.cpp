// The twin of cuda/gemm_cublas.cu: products in float32 on the host, one after the other, as work on the emulated
// stream.
#include "cuda/gemm.h"

#include <vector>

#include "cuda_emulation.h"

namespace dattn::cuda {

namespace {

// A stored matrix of `rows` runs as float32 without gaps.
std::vector<float> read_matrix(const void* data, Dtype dtype, std::int64_t first, std::int64_t rows,
                               std::int64_t columns, std::int64_t ld) {
  std::vector<float> values;
  values.reserve(static_cast<std::size_t>(rows * columns));
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = first + i * ld; j < first + i * ld + columns; ++j) {
      values.push_back(dtype == Dtype::float32 ? static_cast<const float*>(data)[j]
                                               : static_cast<float>(static_cast<const bfloat16*>(data)[j]));
    }
  }
  return values;
}

void write_element(void* data, Dtype dtype, std::int64_t i, float value) {
  if (dtype == Dtype::float32) {
    static_cast<float*>(data)[i] = value;
  } else {
    static_cast<bfloat16*>(data)[i] = bfloat16(value);
  }
}

void multiply_now(const Gemm& s, float alpha, const void* a, const void* b, float beta, void* c, const void* bias,
                  const void* d) {
  const bool ta = s.ta == Trans::yes, tb = s.tb == Trans::yes;
  std::vector<float> product(static_cast<std::size_t>(s.m * s.n)), shift(static_cast<std::size_t>(s.n), 0.0f);
  if (s.has_bias) shift = read_matrix(bias, s.out, 0, 1, s.n, s.n);
  for (std::int64_t i = 0; i < s.batch; ++i) {
    const auto left = read_matrix(a, s.in, i * s.stride_a, ta ? s.k : s.m, ta ? s.m : s.k, s.lda);
    const auto right = read_matrix(b, s.in, i * s.stride_b, tb ? s.n : s.k, tb ? s.k : s.n, s.ldb);
    gemm_tile<float>(s.ta, s.tb, s.m, s.n, s.k, alpha, left.data(), ta ? s.m : s.k, right.data(), tb ? s.k : s.n, 0,
                     product.data(), s.n);
    std::vector<float> before;
    if (beta != 0) before = read_matrix(d, s.out, i * s.stride_c, s.m, s.n, s.ldc);
    for (std::int64_t row = 0; row < s.m; ++row) {
      for (std::int64_t column = 0; column < s.n; ++column) {
        const auto at = static_cast<std::size_t>(row * s.n + column);
        const float value = product[at] + shift[static_cast<std::size_t>(column)] + (beta != 0 ? beta * before[at] : 0);
        write_element(c, s.out, i * s.stride_c + row * s.ldc + column, value);
      }
    }
  }
}

}  // namespace

void detail::multiply(const Gemm& s, float alpha, const void* a, const void* b, float beta, void* c, const void* bias,
                      const void* d) {
  for (const void* p : {a, b, static_cast<const void*>(c), bias, d}) emulation::check_device_pointer("gemm", p);
  emulation::run_on_stream([=] { multiply_now(s, alpha, a, b, beta, c, bias, d); });
}

}  // namespace dattn::cuda
