// The gradient checker: analytic gradients in float64 against central differences of <f(x), r>.
#pragma once

#include <optional>
#include <string>

#include "op_cases.h"

namespace dattn::test {

/// Results and gradients of one forward and backward pass: `y`, then the gradient of every float input and trainable
/// parameter.
struct OpResults {
  Tensor y;
  std::vector<NamedTensor> gradients;
  std::size_t first_parameter = 0;  ///< where among them those of parameters begin
};

/// The gradient fed to the output: normal numbers (never ones) that are exact in bfloat16, the same for every type.
Tensor output_gradient(const Tensor& y);

/// Runs a case forward and backward in the type and on the device it is in now, and brings the results to the CPU;
/// parameters' gradients are zeroed first unless `keep`.
OpResults run(OpInstance& instance, bool keep_parameter_gradients = false);

/// Converts inputs, parameters and buffers to float32.
void to_float32(OpInstance& instance);
/// Rounds them to float32 and keeps float64: the reference of what float32 computes on the same numbers.
void round_to_float32(OpInstance& instance);
/// The same for bfloat16 activations: inputs to bfloat16, what stays exact to float32.
void to_bfloat16(OpInstance& instance);
void round_to_bfloat16(OpInstance& instance);

/// Moves inputs, parameters and buffers to a device.
void move_to(OpInstance& instance, Device device);

/// Checks every element of every gradient: |analytic - numeric| <= 1e-6 |numeric| + 1e-8. Returns the first failure,
/// such as `conv2d: d(weight)[0,1,2] analytic 0.12345 numeric 0.12330 rel 1.2e-03 > 1e-06`, or nothing.
std::optional<std::string> gradcheck(const OpCase& op_case);

}  // namespace dattn::test
