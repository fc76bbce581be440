// Comparison of results of a case: with a reference within a bound, and bit for bit.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "gradcheck.h"

namespace dattn::test {

/// The largest modulus; 0 where there are no elements.
double largest(const Tensor& x);

/// The largest |a - b|; infinite where one is not a number.
double distance(const Tensor& a, const Tensor& b);

bool same_bits(const Tensor& a, const Tensor& b);

/// Expects the same bits of what f gives with one thread, two and three.
void expect_same_with_threads(const std::function<std::vector<Tensor>()>& f);

/// How far float32 may be from float64, as a share of the scale, after a sum of `reduction` terms.
double float_bound(std::int64_t reduction);

/// How far activations in bfloat16 may put a case from float64: what float32 may, and 2^-8 for each rounding.
double bfloat16_bound(const OpCase& op_case);
/// The cases that have a reference in bfloat16: all but those of kNotInBfloat16.
std::vector<OpCase> bfloat16_cases();

/// Expects y and every gradient of `got` within `bound` times the scale of those of `expected`: the largest value of
/// the tensor and, for gradients, `share` of the largest gradient of the case if that is more.
void expect_close(const OpCase& op_case, const OpResults& got, const OpResults& expected, double bound,
                  double share = 1e-3);

/// Expects the same bits everywhere; `what` tells the runs apart.
void expect_same_bits(const OpCase& op_case, const OpResults& got, const OpResults& expected, const std::string& what);

/// Expects that gradients of parameters are twice those of `once` within `bound` times their scale, and those of inputs
/// the same.
void expect_doubled_parameters(const OpCase& op_case, const OpResults& twice, const OpResults& once, double bound);

}  // namespace dattn::test
