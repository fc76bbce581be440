// Golden files: results and gradients that other implementations computed in float64, to be met by ours.
// One safetensors file a case; its metadata `op` and the options of that operation say what is in it.
#pragma once

#include <string>

#include "core/state_file.h"

namespace dattn {

/// Largest error that a case may have.
inline constexpr double kGoldenBound = 1e-9;

/// How far our results are from a file's: the largest error of a tensor, and which one has it.
/// The error of a tensor is its largest absolute difference, divided by the larger of the largest reference value of
/// that tensor and, for gradients, 1e-3 of the largest gradient in the file. A difference that is not finite counts as
/// infinite.
struct GoldenResult {
  double error = 0;
  std::string tensor;
};

/// Runs the operation that the file describes and compares every result it holds: y, pos, reference, grad.x, grad.NAME,
/// buffer_after.NAME, stepK.param.NAME. Error where the file cannot be understood: an unknown `op`, options or tensors
/// that are missing, misshapen or not known.
GoldenResult check_golden(const StateFile& file);

}  // namespace dattn
