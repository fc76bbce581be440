// Cross entropy of logits z against classes or distributions, with label smoothing (Szegedy et al., arXiv 1512.00567).
//
// Row n has the target distribution q = (1 - e) t + e / classes, where t is one at the class, or the given
// distribution, and e the smoothing.
//   L_n = sum_c q_c (log sum_k exp z_k - z_c)        dL_n/dz_c = softmax(z)_c sum_k q_k - q_c
#pragma once

#include "core/autograd.h"
#include "core/kernel.h"

namespace dattn {

enum class Reduction : unsigned char { mean, sum };

/// The loss as a scalar: the mean or the sum over rows. logits [N, classes] float32, float64 or bfloat16; targets
/// either int64 classes [N], or distributions [N, classes] of the logits' exact type, which get no gradient. A class
/// out of range is an Error that names its place on the CPU, and a loss of NaN on a device. Equal to
/// torch.nn.functional.cross_entropy.
Tensor cross_entropy(const Tensor& logits, const Tensor& targets, double label_smoothing = 0,
                     Reduction reduction = Reduction::mean);

extern Kernel<void(const Tensor& logits, const Tensor& targets, double label_smoothing, Reduction, Tensor& loss)>
    cross_entropy_forward;
/// `dloss` is the scalar's gradient.
extern Kernel<void(const Tensor& dloss, const Tensor& logits, const Tensor& targets, double label_smoothing, Reduction,
                   Tensor& dlogits)>
    cross_entropy_backward;

}  // namespace dattn
