// A kernel slot: one operation's function for each device. Layers declare slots; cuda/ fills their CUDA side.
#pragma once

#include "core/error.h"
#include "core/tensor.h"

namespace dattn {

template <typename Signature>
class Kernel;

/// Declared in `x.h`:            `extern Kernel<void(const Tensor& x, Tensor& y)> gelu_forward;`
/// defined beside the CPU kernel: `constinit Kernel<void(const Tensor&, Tensor&)> gelu_forward{"gelu_forward",
/// gelu_forward_cpu};` A call goes to the function for the device of the first tensor among the arguments; an empty
/// side is an Error.
template <typename... Args>
class Kernel<void(Args...)> {
 public:
  using Function = void (*)(Args...);

  constexpr Kernel(const char* name, Function cpu) : name_(name), cpu_(cpu) {}

  void set_cuda(Function function) { cuda_ = function; }
  const char* name() const { return name_; }
  bool has_cuda() const { return cuda_ != nullptr; }

  void operator()(Args... args) const {
    const Device device = device_of(args...);
    if (device == Device::cpu) return cpu_(args...);
    check(cuda_, "{}: no kernel for {}\nhint: build with nvcc present, or move the tensors to the cpu", name_,
          dattn::name(device));
    cuda_(args...);
  }

 private:
  template <typename First, typename... Rest>
  static Device device_of(const First& first, const Rest&... rest) {
    if constexpr (std::is_convertible_v<const First&, const Tensor&>) {
      return first.device();
    } else {
      static_assert(sizeof...(Rest) > 0, "a kernel takes at least one tensor");
      return device_of(rest...);
    }
  }

  const char* name_;
  Function cpu_;
  Function cuda_ = nullptr;
};

}  // namespace dattn
