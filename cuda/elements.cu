// Filling and conversion of tensors: device twins of core/elements_cpu.cpp.
#include "cuda/common.cuh"
#include "cuda/kernels.h"

namespace dattn::cuda {

namespace {

// Conversions as the CPU makes them: to bfloat16 and from it through float.
template <typename To, typename From>
__device__ To convert(From x) {
  if constexpr (std::is_same_v<From, bfloat16>) {
    return convert<To>(to_float(x));
  } else if constexpr (std::is_same_v<To, bfloat16>) {
    return to_storage<bfloat16>(static_cast<float>(x));
  } else {
    return static_cast<To>(x);
  }
}

template <typename T>
struct Fill {
  T value;
  T* x;
  __device__ void operator()(std::int64_t i) const { x[i] = value; }
};

struct Same {
  __device__ float operator()(float x) const { return x; }
};

template <typename To, typename From>
struct Convert {
  const From* from;
  To* to;
  __device__ void operator()(std::int64_t i) const { to[i] = convert<To>(from[i]); }
};

}  // namespace

void fill_elements_cuda(Tensor& x, double value) {
  if (value == 0) {
    if (x.bytes() > 0) check_cuda(cudaMemsetAsync(x.raw(), 0, x.bytes(), stream()), "fill");
    return;
  }
  dispatch_any(x.dtype(), [&]<typename T>() {
    for_each_item("fill_elements", x.elements(), Fill<T>{static_cast<T>(value), x.data<T>()});
  });
}

void convert_elements_cuda(const Tensor& from, Tensor& to) {
  dispatch_any(to.dtype(), [&]<typename To>() {
    dispatch_any(from.dtype(), [&]<typename From>() {
      constexpr bool kStored = std::is_same_v<To, float> || std::is_same_v<To, bfloat16>;
      if constexpr (kStored && (std::is_same_v<From, float> || std::is_same_v<From, bfloat16>)) {
        map_elements("convert_elements", to.elements(), Same{}, to.data<To>(), from.data<From>());
      } else {
        for_each_item("convert_elements", to.elements(), Convert<To, From>{from.data<From>(), to.data<To>()});
      }
    });
  });
}

}  // namespace dattn::cuda
