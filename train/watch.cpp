// Largest activation by layer.
#include "train/watch.h"

#include <cmath>
#include <utility>

namespace dattn {

namespace {
thread_local ActivationWatch* watcher = nullptr;
}

double largest_magnitude(const Tensor& x) {
  const Tensor here = x.to(Device::cpu);
  double largest = 0;
  for (std::int64_t i = 0; i < here.elements(); ++i) {
    const double v = std::abs(here.at(i));
    if (!(v <= largest)) largest = v;
    if (std::isnan(v)) break;
  }
  return largest;
}

std::string first_not_finite(const std::vector<NamedTensor>& tensors) {
  for (const auto& [name, x] : tensors) {
    if (!std::isfinite(largest_magnitude(x))) return name;
  }
  return {};
}

ActivationWatch::ActivationWatch() { watcher = this; }
ActivationWatch::~ActivationWatch() { watcher = nullptr; }

Tensor watch(const char* group, const char* layer, Tensor x) {
  if (watcher) {
    watcher->entries_.push_back({*layer ? fmt::format("{}.{}", group, layer) : group, largest_magnitude(x)});
  }
  return x;
}

}  // namespace dattn
