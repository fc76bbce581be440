// The cases of the benchmark, under the names of bench/peer/bench_torch.py.
#pragma once

#include <functional>
#include <vector>

#include "core/tensor.h"

namespace dattn {

/// What a case runs: `forward` gives the output (or the loss of a network), `clear` drops gradients between steps.
struct Running {
  std::function<Tensor()> forward;
  std::function<void()> clear;
};

/// The least that forward + backward, or inference, can do: operations (multiplications and additions of matrix
/// products, convolutions by the cheapest algorithm known here) and elements of activations (what must be kept is
/// written and read once).
struct Work {
  double operations = 0, elements = 0;
  Work& operator+=(const Work& other) {
    operations += other.operations, elements += other.elements;
    return *this;
  }
};

/// Where a case runs, and the type of its activations.
struct Setting {
  Device device = Device::cpu;
  Dtype precision = Dtype::float32;
};

struct Case {
  const char* name;
  std::function<Running(Setting setting)> make;
  Work work;
  bool inference = false;  ///< forward alone
  bool heavy = false;      ///< minutes on a CPU, where it runs only if it is named
};

const std::vector<Case>& cases();

}  // namespace dattn
