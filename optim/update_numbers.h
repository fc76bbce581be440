// The numbers of an update: rates, decays and corrections, which change from one update to the next. They lie in a
// tensor on the device of what they update and kernels read them there, so that a captured update can be replayed with
// others.
#pragma once

#include <cstring>
#include <type_traits>

#include "core/tensor.h"

namespace dattn {

/// How many doubles a struct of doubles is.
template <typename N>
constexpr std::int64_t kNumbers = sizeof(N) / sizeof(double);

/// Lays a struct of numbers down as doubles.
template <typename N>
void put_numbers(const N& n, double* to) {
  static_assert(std::is_trivially_copyable_v<N> && sizeof(N) % sizeof(double) == 0, "a struct of doubles");
  std::memcpy(to, &n, sizeof(N));
}

/// Reads it again from a tensor on the CPU.
template <typename N>
N get_numbers(const Tensor& numbers) {
  check(numbers.elements() == kNumbers<N>, "expected {} numbers of an update, got {}", kNumbers<N>, numbers.shape());
  N n;
  std::memcpy(&n, numbers.data<double>(), sizeof(N));
  return n;
}

/// A tensor of numbers and, where it lies on another device, the place on the host from which it is filled.
class UpdateNumbers {
 public:
  UpdateNumbers(std::int64_t count, Device device)
      : host_(Tensor::zeros({count}, Dtype::float64)), there_(host_.to(device)) {}

  Tensor& tensor() { return there_; }  ///< float64 [count]

  /// Has `write(double*)` give all numbers and copies them to the device.
  template <typename F>
  void set(F&& write) {
    write(host_.data<double>());
    if (there_.device() != Device::cpu) there_.copy_from(host_);
  }

 private:
  Tensor host_, there_;  // the same one on the CPU
};

}  // namespace dattn
