// What a training step adds to the totals of its epoch, which lie where the step runs and are read once:
//   totals[0] += f loss,   totals[1] += #{n : argmax_c z_nc = label_n},   totals[2] = the first step whose loss is
//   not finite, or -1.
#pragma once

#include "core/kernel.h"

namespace dattn {

/// totals float64 [3], which begin as {0, 0, -1}: adds `loss_factor` times the loss, float32 [], and the rows of
/// logits, float32 [B,classes], whose first largest one is at the label, int64 [B]; notes `step`, int64 [], where the
/// loss is not finite and no step was noted before.
extern Kernel<void(const Tensor& logits, const Tensor& labels, const Tensor& loss, double loss_factor,
                   const Tensor& step, Tensor& totals)>
    add_to_totals;

/// Error unless add_to_totals can be called with these: types, shapes and devices that fit. For its kernels.
void check_totals(const Tensor& logits, const Tensor& labels, const Tensor& loss, const Tensor& step,
                  const Tensor& totals);

}  // namespace dattn
