// What this machine can do: the speeds that a benchmark's floor is made of.
#pragma once

#include "core/dtype.h"

namespace dattn {

struct Machine {
  double operations_per_second;  ///< multiplications and additions
  double bytes_per_second;       ///< read and written, arrays far larger than any cache
};

/// The processor, all threads: float32 sums held in registers, or in bfloat16 the tile blocks that products run on,
/// where there are any (the best of several tries; about a second).
Machine measure_machine(Dtype precision);
/// The device: matrix products of factors in `precision`, summed in float32.
Machine measure_device(Dtype precision);

}  // namespace dattn
