// A kernel slot: one operation's function for each device. Layers declare slots; cuda/ fills their CUDA side.
#pragma once

#include <tuple>
#include <type_traits>

#include "core/error.h"
#include "core/tensor.h"

namespace dattn {

/// How a CPU kernel takes activations in bfloat16: by loading and storing them itself, or as float32 copies, which the
/// slot makes of every bfloat16 argument.
enum class Bfloat16 : bool { copied, native };

namespace detail {

// An argument of a kernel, with a float32 copy where it is a bfloat16 tensor.
template <typename Arg>
struct InFloat32 {
  Arg arg;
  Arg get() { return static_cast<Arg>(arg); }
  void finish() {}
};
template <>
struct InFloat32<const Tensor&> {
  Tensor tensor;
  explicit InFloat32(const Tensor& x) : tensor(x.dtype() == Dtype::bfloat16 ? x.to(Dtype::float32) : x) {}
  const Tensor& get() { return tensor; }
  void finish() {}
};
// Outputs are written whole, so nothing is copied in.
template <>
struct InFloat32<Tensor&> {
  Tensor& output;
  Tensor copy;
  explicit InFloat32(Tensor& y) : output(y) {
    if (y.dtype() == Dtype::bfloat16) copy = Tensor::empty(y.shape(), Dtype::float32);
  }
  Tensor& get() { return copy ? copy : output; }
  void finish() {
    if (copy) output.copy_from(copy);
  }
};

template <typename Arg>
bool is_bfloat16(const Arg& arg) {
  if constexpr (std::is_convertible_v<const Arg&, const Tensor&>) return arg.dtype() == Dtype::bfloat16;
  return false;
}

}  // namespace detail

/// Calls f with float32 copies of the arguments that are bfloat16 tensors.
template <typename... Args>
void call_in_float32(void (*f)(Args...), std::type_identity_t<Args>... args) {
  std::tuple<detail::InFloat32<Args>...> copies{detail::InFloat32<Args>{args}...};
  std::apply(
      [f](auto&... copy) {
        f(copy.get()...);
        (copy.finish(), ...);
      },
      copies);
}

template <typename Signature>
class Kernel;

/// An operation's slot, with a function for each device. A call goes to the one for the device of the first tensor
/// among the arguments; where there is none, it is an Error. Declared in the operation's header:
///
///     extern Kernel<void(const Tensor& x, Tensor& y)> softmax_forward;
///
/// and defined beside the CPU kernel:
///
///     constinit Kernel<void(const Tensor&, Tensor&)> softmax_forward{"softmax_forward", softmax_forward_cpu};
template <typename... Args>
class Kernel<void(Args...)> {
 public:
  using Function = void (*)(Args...);

  constexpr Kernel(const char* name, Function cpu, Bfloat16 bfloat16 = Bfloat16::copied)
      : name_(name), cpu_(cpu), bfloat16_(bfloat16) {}

  void set_cuda(Function function) { cuda_ = function; }

  void operator()(Args... args) const {
    const Device device = device_of(args...);
    if (device == Device::cpu) {
      const bool copied = bfloat16_ == Bfloat16::copied && (detail::is_bfloat16(args) || ...);
      return copied ? call_in_float32(cpu_, args...) : cpu_(args...);
    }
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
  Bfloat16 bfloat16_;
  Function cuda_ = nullptr;
};

}  // namespace dattn
