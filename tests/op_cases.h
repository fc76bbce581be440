// The table of operation cases. Every case runs through every suite of op_suites_test.cpp (GradCheck, Float, Bfloat16,
// Repeat, Accumulate, Recompute) and of cuda/op_suites_test.cpp.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "core/parameter.h"
#include "core/random.h"
#include "core/tensor.h"
#include "layers/module.h"

namespace dattn::test {

/// A case ready to run, in float64: made afresh for every suite, always with the same numbers.
struct OpInstance {
  struct Input {
    std::string name;
    Tensor value;  ///< a float64 input is checked for its gradient; inputs of other types (classes, masks) are passed
                   ///< as they are
    bool exact = false;  ///< positions and the like, which stay float32 beside activations in bfloat16
  };
  std::vector<Input> inputs;
  std::vector<NamedParameter> parameters;  ///< all trainable ones are checked
  /// Runs the operation on inputs in the order of `inputs`, in the type that they and the parameters have.
  std::function<Tensor(std::span<const Tensor> inputs)> call;
  /// Converts parameters and buffers to another type. Modules convert themselves; plain parameters by default.
  std::function<void(Dtype)> convert;
  /// Moves them to a device, likewise.
  std::function<void(Device)> move = {};
};

/// `roundings` of a case that samples at positions which depend on its activations (in bfloat16 they lie elsewhere) or
/// whose scores are too large for bfloat16: there is nothing to compare with.
inline constexpr int kNotInBfloat16 = 0;

struct OpCase {
  std::string name;  ///< letters, digits and underscores: `conv2d_stride2`
  std::function<OpInstance()> make;
  std::int64_t reduction = 1;  ///< K: the longest sum that one element of a result or gradient goes through
  int roundings = 1;  ///< bfloat16: results stored on the way to a result or gradient, itself included; at most 4
  /// A gradient that is zero by theory is compared in bfloat16 on the scale of this share of the largest of the case.
  double share = 1e-3;
};

/// Normal numbers of the case's own stream: `lane` tells apart the tensors of a case. Never ties, never zeros.
Tensor normal(const Shape& shape, std::uint32_t lane, double scale = 1, double mean = 0);

/// A trainable parameter of such numbers.
Parameter normal_parameter(const Shape& shape, std::uint32_t lane, double scale = 1, Role role = Role::matrix);

/// Gives every trainable parameter of a module random values (weights that start at zero or one would make checks
/// empty).
void randomise(const std::vector<NamedParameter>& parameters, double scale = 0.5);

/// An instance around a module in float64: parameters randomised, conversion by dattn::convert.
/// `call(module, inputs)` runs it.
template <Module M, typename Call>
OpInstance module_instance(M module, std::vector<OpInstance::Input> inputs, Call call, double scale = 0.5) {
  auto shared = std::make_shared<M>(std::move(module));
  convert(*shared, Dtype::float64);
  OpInstance instance;
  instance.inputs = std::move(inputs);
  instance.parameters = parameters(*shared);
  randomise(instance.parameters, scale);
  instance.call = [shared, call](std::span<const Tensor> in) { return call(*shared, in); };
  instance.convert = [shared](Dtype dtype) { convert(*shared, dtype); };
  instance.move = [shared](Device device) { move_to(*shared, device); };
  return instance;
}

// One function a group of operations, each in its own file op_cases_*.cpp; op_cases() in op_cases.cpp joins them.
std::vector<OpCase> basic_cases();
std::vector<OpCase> conv_cases();
std::vector<OpCase> norm_cases();
std::vector<OpCase> pool_cases();
std::vector<OpCase> sample_cases();
std::vector<OpCase> dattention_cases();
std::vector<OpCase> attention_cases();
std::vector<OpCase> activation_cases();

std::vector<OpCase> op_cases();

void PrintTo(const OpCase& op_case, std::ostream* out);  ///< the name, in test listings

}  // namespace dattn::test
