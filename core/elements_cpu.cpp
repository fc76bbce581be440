// CPU kernels that fill tensors and convert them: with SIMD between float32 and bfloat16, which happens in every step
// of a bfloat16 run.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/elements_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/elements.h"
#include "core/parallel.h"
#include "core/simd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

template <typename From, typename To>
void convert_vectors(const From* from, To* to, std::int64_t n) {
  parallel_for(n, kElementTile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
    for_lanes<float>(end - begin,
                     [&](auto d, std::int64_t i) HWY_ATTR { store(load(d, from + begin + i), d, to + begin + i); });
  });
}

void ToBfloat16(const float* from, bfloat16* to, std::int64_t n) { convert_vectors(from, to, n); }
void FromBfloat16(const bfloat16* from, float* to, std::int64_t n) { convert_vectors(from, to, n); }

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

namespace {

void fill_elements_cpu(Tensor& x, double value) {
  if (value == 0) {
    std::memset(x.raw(), 0, x.bytes());
  } else {
    dispatch_any(x.dtype(), [&]<typename T>() { std::fill_n(x.data<T>(), x.elements(), static_cast<T>(value)); });
  }
}

HWY_EXPORT(ToBfloat16);
HWY_EXPORT(FromBfloat16);

template <typename From, typename To>
void convert(const From* from, To* to, std::int64_t n) {
  constexpr bool through_float = std::is_same_v<To, bfloat16> || std::is_same_v<From, bfloat16>;
  for (std::int64_t i = 0; i < n; ++i) {
    if constexpr (through_float) {
      to[i] = static_cast<To>(static_cast<float>(from[i]));
    } else {
      to[i] = static_cast<To>(from[i]);
    }
  }
}
void convert(const float* from, bfloat16* to, std::int64_t n) { HWY_DYNAMIC_DISPATCH(ToBfloat16)(from, to, n); }
void convert(const bfloat16* from, float* to, std::int64_t n) { HWY_DYNAMIC_DISPATCH(FromBfloat16)(from, to, n); }

void convert_elements_cpu(const Tensor& from, Tensor& to) {
  dispatch_any(to.dtype(), [&]<typename To>() {
    dispatch_any(from.dtype(), [&]<typename From>() { convert(from.data<From>(), to.data<To>(), to.elements()); });
  });
}

}  // namespace

constinit Kernel<void(Tensor&, double)> fill_elements{"fill_elements", fill_elements_cpu, Bfloat16::native};
constinit Kernel<void(const Tensor&, Tensor&)> convert_elements{"convert_elements", convert_elements_cpu,
                                                                Bfloat16::native};

}  // namespace dattn
#endif
