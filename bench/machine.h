// What this machine can do: the speeds that a benchmark's floor is made of.
#pragma once

namespace dattn {

struct Machine {
  double operations_per_second;  ///< float32 multiplications and additions, all threads, sums held in registers
  double bytes_per_second;       ///< read and written, all threads, arrays far larger than any cache
};

/// Measures both (the best of several tries; about a second).
Machine measure_machine();

}  // namespace dattn
