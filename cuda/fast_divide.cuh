// Division of indices by a number that the host knows: a multiplication and a shift.
#pragma once

#include <bit>

#include "cuda/common.cuh"

namespace dattn::cuda {

/// n / divisor for n in [0, 2^31), divisor in [1, 2^31) (Granlund and Montgomery, PLDI 1994, figure 4.1).
class FastDivide {
 public:
  explicit FastDivide(std::int64_t divisor)
      : shift_(std::bit_width(static_cast<std::uint64_t>(divisor - 1))),
        multiplier_(static_cast<unsigned>(((((std::int64_t{1} << shift_) - divisor) << 32) / divisor) + 1)) {}
  __device__ __forceinline__ int operator()(int n) const {
    return static_cast<int>((__umulhi(multiplier_, static_cast<unsigned>(n)) + static_cast<unsigned>(n)) >> shift_);
  }

 private:
  int shift_;
  unsigned multiplier_;
};

}  // namespace dattn::cuda
