// For tests that call kernel slots themselves: the same numbers on the device in a storage type and on the CPU in
// float64, and their comparison. Sizes beyond those of the table of cases go this way.
#pragma once

#include <gtest/gtest.h>

#include "core/tensor.h"
#include "op_cases.h"
#include "op_compare.h"

namespace dattn::test {

/// A tensor of the CPU in float64, as the device holds it: rounded to `dtype`.
inline Tensor rounded(const Tensor& x, Dtype dtype) { return x.to(dtype).to(Dtype::float64); }
inline Tensor on_device(const Tensor& x, Dtype dtype = Dtype::float32) { return x.to(dtype).to(Device::cuda); }
inline Tensor empty_on_device(const Shape& shape, Dtype dtype = Dtype::float32) {
  return Tensor::empty(shape, dtype, Device::cuda);
}

/// Expects the device's result within `bound` times the largest expected value, and half a unit of its type more.
inline void expect_near(const Tensor& got, const Tensor& expected, double bound, const char* what) {
  if (got.dtype() == Dtype::bfloat16) bound += 0x1p-8;
  EXPECT_LE(distance(got.to(Device::cpu).to(Dtype::float64), expected), bound * largest(expected)) << what;
}

}  // namespace dattn::test
