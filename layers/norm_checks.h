// The checks that the normalisations share: weight and bias [C] beside x [...,C].
#pragma once

#include "core/parameter.h"

namespace dattn {

inline void check_norm(const char* operation, const Tensor& x, const Parameter& weight, const Parameter& bias,
                       double eps) {
  check(weight && bias, "{}: expected a weight and a bias, got none", operation);
  const std::int64_t channels = weight.value().elements();
  check(channels >= 1 && weight.shape() == Shape{channels} && bias.shape() == weight.shape(),
        "{}: expected weight and bias of one shape [C], got {} and {}", operation, weight.shape(), bias.shape());
  check(x.size(-1) == channels, "{}: expected {} channels, input has {} ({})", operation, channels, x.size(-1),
        describe("x", x));
  check(exact_type(x.dtype()) == weight.value().dtype() && weight.value().dtype() == bias.value().dtype(),
        "{}: expected an input of its parameters' type {} or bfloat16 beside float32, got {}\nhint: convert(module, "
        "dtype) or x.to(dtype)",
        operation, name(weight.value().dtype()), describe("x", x));
  check(eps >= 0, "{}: expected eps of at least 0, got {}", operation, eps);
}

}  // namespace dattn
