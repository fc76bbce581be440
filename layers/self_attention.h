// Plain multi-head self-attention: y = softmax(q k^T / sqrt(D)) v in each head of D channels, between projections of x.
#pragma once

#include "layers/conv2d.h"

namespace dattn {

/// The mix of values by the softmax of scores, one fused node: q [N,...,C] and k, v [N,...,C], whose dimensions in
/// between are tokens (k and v have the same, q may have others); gives the shape of q. Head m of `n_heads` has
/// channels [m D, (m+1) D), D = C / n_heads, and its scores are scaled by 1 / sqrt(D). Memory is linear in tokens:
/// scores are never held whole, and backward makes them again from the saved logarithms of the row sums. Error where
/// `n_heads` does not divide C, shapes or types differ, or there are no keys.
Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t n_heads);

/// Self-attention over all pixels of x [N,H,W,C]: what DAttention is compared with. The projections are 1x1
/// convolutions.
struct SelfAttention {
  std::int64_t n_heads;
  Conv2d proj_q, proj_k, proj_v, proj_out;

  SelfAttention(std::int64_t channel, std::int64_t heads, Random& random);
  Tensor operator()(const Tensor& x) const;
  void visit(Visitor& v);
};

}  // namespace dattn
