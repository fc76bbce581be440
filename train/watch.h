// Largest activation by layer, for the report of a run whose loss is not finite.
#pragma once

#include <string>
#include <vector>

#include "core/tensor.h"

namespace dattn {

/// Largest absolute element; NaN if any is NaN.
double largest_magnitude(const Tensor& x);
/// The name of the first tensor with a number that is not finite; empty where all are.
std::string first_not_finite(const std::vector<NamedTensor>& tensors);

/// While one lives in a thread, watch() notes in it what passes.
class ActivationWatch {
 public:
  struct Entry {
    std::string layer;
    double largest;
  };
  ActivationWatch();
  ~ActivationWatch();
  ActivationWatch(const ActivationWatch&) = delete;
  ActivationWatch& operator=(const ActivationWatch&) = delete;
  const std::vector<Entry>& entries() const { return entries_; }

 private:
  friend Tensor watch(const char* group, const char* layer, Tensor x);
  std::vector<Entry> entries_;
};

/// Returns x; notes its largest element under `group.layer` if somebody watches.
Tensor watch(const char* group, const char* layer, Tensor x);

}  // namespace dattn
