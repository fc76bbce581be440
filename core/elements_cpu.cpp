// CPU kernels that fill tensors and convert them.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/elements.h"

namespace dattn {

namespace {

void fill_elements_cpu(Tensor& x, double value) {
  if (value == 0) {
    std::memset(x.raw(), 0, x.bytes());
  } else {
    dispatch_any(x.dtype(), [&]<typename T>() { std::fill_n(x.data<T>(), x.elements(), static_cast<T>(value)); });
  }
}

template <typename To, typename From>
void convert(To* to, const From* from, std::int64_t n) {
  constexpr bool through_float = std::is_same_v<To, bfloat16> || std::is_same_v<From, bfloat16>;
  for (std::int64_t i = 0; i < n; ++i) {
    if constexpr (through_float) {
      to[i] = static_cast<To>(static_cast<float>(from[i]));
    } else {
      to[i] = static_cast<To>(from[i]);
    }
  }
}

void convert_elements_cpu(const Tensor& from, Tensor& to) {
  dispatch_any(to.dtype(), [&]<typename To>() {
    dispatch_any(from.dtype(), [&]<typename From>() { convert(to.data<To>(), from.data<From>(), to.elements()); });
  });
}

}  // namespace

constinit Kernel<void(Tensor&, double)> fill_elements{"fill_elements", fill_elements_cpu};
constinit Kernel<void(const Tensor&, Tensor&)> convert_elements{"convert_elements", convert_elements_cpu};

}  // namespace dattn
