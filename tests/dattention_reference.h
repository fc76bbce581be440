// DAttention composed of single operations that autograd differentiates: slow, and what the fused operation is compared
// with.
#pragma once

#include "core/tensor.h"
#include "layers/dattention_kernels.h"

namespace dattn::test {

/// The arguments of dattention() (layers/dattention.h), all as plain tensors, so that each can be tracked.
struct DAttentionInputs {
  Tensor x, q, offsets;      // [N,H,W,C], [N,H,W,C], [N,Hk,Wk,G,2]
  Tensor wk, bk, wv, bv;     // [C,C], [C]
  Tensor table, w1, b1, w2;  // those that `kind` asks for
  BiasKind kind = BiasKind::none;
  std::int64_t heads = 1;
  double factor = 4;
  DropoutMask mask;
};

Tensor dattention_reference(const DAttentionInputs& in);

}  // namespace dattn::test
