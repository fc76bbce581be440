// Rows of tables, by a number that lies in memory itself: y = table[index], and index += 1. A training step that is
// captured once finds there what changes from step to step.
#pragma once

#include "core/kernel.h"

namespace dattn {

/// y [...] = table[index], byte for byte: table [R, ...] of any element type, index int64 []. An index outside the
/// table is an Error on the CPU; on a device, where nothing is read back, it fills y with bytes of 0xff, which are NaN
/// in every floating type and -1 in signed integers.
extern Kernel<void(const Tensor& table, const Tensor& index, Tensor& y)> take_row;
/// index int64 [] += 1.
extern Kernel<void(Tensor& index)> advance;

/// Error unless take_row can be called with these: types, shapes and devices that fit. For its kernels.
void check_row(const Tensor& table, const Tensor& index, const Tensor& y);

}  // namespace dattn
