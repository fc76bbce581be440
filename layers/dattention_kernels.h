// The kernel slots of DAttention's fused operation. Equations by number: docs/dattention.md.
#pragma once

#include <cstdint>

#include "core/kernel.h"
#include "core/parameter.h"
#include "layers/dropout.h"

namespace dattn {

/// What is added to the scores before the softmax. The convolutional encoding is added after it, outside the fused
/// operation.
enum class BiasKind : unsigned char {
  none,
  table,   ///< relative positions in a table [M, 2h-1, 2w-1] for maps of h x w, sampled bilinearly (10)-(12)
  fixed,   ///< one number for each head, query and sample: a table [M, H*W, K] (13)
  log_cpb  ///< a small network on logarithmic relative positions (14)
};

struct DAttentionBias {
  BiasKind kind = BiasKind::none;
  Parameter table;       ///< of `table` and `fixed`
  Parameter w1, b1, w2;  ///< of `log_cpb`: [hidden, 2], [hidden], [M/G, hidden]

  /// Whether it depends on the positions of the samples.
  bool moves() const { return kind == BiasKind::table || kind == BiasKind::log_cpb; }
};

/// Reference point (1) of sample `i` of `n` along one axis of the grid, where -1 and 1 are the centres of the map's
/// outer pixels. A grid of one row or column has its only point at 0.
constexpr double dattention_reference_point(std::int64_t i, std::int64_t n) {
  return n > 1 ? (static_cast<double>(i) + 0.5) / static_cast<double>(n - 1) * 2 - 1 : 0;
}

/// Coordinate (10) of query `i` of `n` along one axis of the map; 0 on a map of one row or column.
constexpr double dattention_query_coordinate(std::int64_t i, std::int64_t n) {
  return n > 1 ? static_cast<double>(i) / static_cast<double>(n - 1) * 2 - 1 : 0;
}

/// Positions (2) of the samples from the raw offsets [N,Hk,Wk,G,2], in the same order.
extern Kernel<void(const Tensor& offsets, double factor, Tensor& positions)> dattention_positions_forward;
/// (31): from the gradient of the positions that of the raw offsets.
extern Kernel<void(const Tensor& dpositions, const Tensor& offsets, double factor, Tensor& doffsets)>
    dattention_positions_backward;

/// (6)-(14): mix [N,H,W,C] and lse [N,M,H*W], the logarithm of each row's sum, both in the exact type of q. k and v are
/// [N,Hk,Wk,C]; `positions` may be undefined where the bias asks for none. Number ((n M + m) K + j) H W + i of the mask
/// is the one of weight (n, m, i, j).
extern Kernel<void(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& positions,
                   const DAttentionBias& bias, const DropoutMask& mask, Tensor& mix, Tensor& lse)>
    dattention_attend_forward;
/// (16)-(21), (27)-(30): dq, dk, dv (both exact) and, where defined, dpositions [N,Hk,Wk,G,2] are written; gradients of
/// the bias are added to. `mix` is the unrounded one: (18) subtracts from numbers that it nearly cancels.
extern Kernel<void(const Tensor& dmix, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& positions,
                   const DAttentionBias& bias, const DropoutMask& mask, const Tensor& mix, const Tensor& lse,
                   Tensor& dq, Tensor& dk, Tensor& dv, Tensor& dpositions)>
    dattention_attend_backward;

}  // namespace dattn
