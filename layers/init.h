// Initial values of weights: each initialiser fills the tensor that its handle shares.
#pragma once

#include "core/random.h"
#include "core/tensor.h"

namespace dattn::init {

/// Inputs and outputs that one weight [out, in] or filter bank [O,Kh,Kw,I] connects: in = Kh Kw I, out = Kh Kw O.
struct Fan {
  std::int64_t in, out;
};
Fan fan_of(const Shape& weight);
enum class FanMode : unsigned char { in, out };

void uniform(Tensor w, double low, double high, Random& random);
void normal(Tensor w, double mean, double std, Random& random);

/// Normal numbers, drawn again while outside [low, high] (absolute bounds, as PyTorch's trunc_normal_). The bounds must
/// hold a good part of the distribution: low <= mean + 2 std and high >= mean - 2 std.
void truncated_normal(Tensor w, double std, Random& random, double mean = 0, double low = -2, double high = 2);

/// He et al. 2015, for a leaky ReLU of slope a before: standard deviation sqrt(2 / (1 + a^2) / fan). The uniform one
/// has the bounds +- sqrt(3) times that.
void kaiming_uniform(Tensor w, double a, Random& random, FanMode mode = FanMode::in);
void kaiming_normal(Tensor w, double a, Random& random, FanMode mode = FanMode::in);

/// Glorot and Bengio 2010: standard deviation gain sqrt(2 / (fan in + fan out)).
void xavier_uniform(Tensor w, double gain, Random& random);
void xavier_normal(Tensor w, double gain, Random& random);

/// Filters [O,Kh,Kw,I] (Kh, Kw odd: the identity) that pass input channel i on as output channel i, for i < min(O, I);
/// the other filters are zero. Error for
/// other ranks. For the first filters of a bank only: dirac(w.slice(0, n)).
void dirac(Tensor w);

/// Filters [2D,Kh,Kw,C], D = Kh Kw C, that whiten the patches of `images` [n,H,W,C]: eigenvectors v of the second
/// moments of the patches (no mean taken off), over sqrt(eigenvalue + eps), by ascending eigenvalue; then their
/// negatives. The sign of an eigenvector is chosen so that its largest element is positive.
/// Error for another number of filters, and for images without such a patch.
void whitening(Tensor w, const Tensor& images, double eps = 5e-4);

/// What PyTorch gives a Linear or Conv2d: kaiming_uniform with a = sqrt(5), which is uniform in +-1/sqrt(fan in), for
/// both.
Tensor default_weight(const Shape& weight, Random& random);
Tensor default_bias(const Shape& weight, Random& random);

}  // namespace dattn::init
