// Deformable attention: queries look at samples of the map whose positions they choose themselves (Xia et al., "Vision
// Transformer with Deformable Attention", CVPR 2022, arXiv 2201.00520). Equations by number: docs/dattention.md.
#pragma once

#include <cstdint>
#include <optional>

#include "core/autograd.h"
#include "layers/conv2d.h"
#include "layers/dattention_kernels.h"
#include "layers/dropout.h"
#include "layers/layernorm.h"
#include "layers/linear.h"

namespace dattn {

/// The fused part of DAttention, (2)-(9): samples x at its positions, projects the samples to keys and values, and
/// mixes the values by the softmax of scores and bias.
///   x               [N,H,W,C]      what is sampled; without `offsets`, the samples themselves [N,Hk,Wk,C]
///   q               [N,H,W,C]      queries
///   offsets         [N,Hk,Wk,G,2]  raw output of the offset network, as (y, x); or undefined
///   wk, bk, wv, bv                 projections, [C,1,1,C] and [C]
///   heads           M              head m has channels [m C/M, (m+1) C/M) and belongs to group m / (M/G)
///   factor                         the offset range (2); negative: positions are clamped to [-1, 1] instead
/// x and q have one type (float32, float64 or bfloat16), offsets and parameters its exact type; with offsets x has q's
/// shape. Error where shapes or types do not go together, G does not divide M or M not C, or a bias of relative
/// positions has no offsets. Returns the mix [N,H,W,C]. Memory is O(N (H W + Hk Wk) C): the scores are never held
/// whole.
Tensor dattention(const Tensor& x, const Tensor& q, const Tensor& offsets, const Parameter& wk, const Parameter& bk,
                  const Parameter& wv, const Parameter& bv, const DAttentionBias& bias, std::int64_t heads,
                  double factor, const DropoutMask& mask = {});

/// Options under the published names. Of the position encodings the first asked for counts, in the order dwc_pe,
/// fixed_pe, log_cpb, and the relative table where none of them is; without use_pe there is none. With no_off only
/// dwc_pe encodes.
struct DAttentionOptions {
  std::int64_t channel;       ///< C, a multiple of n_heads and n_groups
  std::int64_t q_h, q_w;      ///< size of the maps that position tables are made for
  std::int64_t n_heads = 8;   ///< M, a multiple of n_groups
  std::int64_t n_groups = 4;  ///< G: each group of channels has its own positions
  double attn_drop = 0;       ///< dropout of attention weights
  double proj_drop = 0;       ///< dropout of the output
  std::int64_t stride = 1;    ///< pixels from sample to sample; at most q_h and q_w
  double offset_range_factor =
      4;                   ///< largest offset, in steps of the sample grid; negative: positions are clamped instead
  bool use_pe = true;      ///< encode positions at all
  bool dwc_pe = true;      ///< by a depthwise 3x3 convolution of the queries, added to the mix
  bool no_off = false;     ///< keys and values from an average pooling in place of samples
  bool fixed_pe = false;   ///< by a table for each query and sample: maps of q_h x q_w only
  std::int64_t ksize = 3;  ///< kernel of the offset network; with ksize == stride it has no padding
  bool log_cpb = false;    ///< by a network on logarithmic relative positions
};

/// The network behind the offsets, the same for every group: depthwise convolution, LayerNorm, GELU, 1x1 convolution to
/// (y, x).
struct OffsetNetwork {
  Conv2d conv;     ///< "0": one filter bank [C/G,ksize,ksize,1] for all groups
  LayerNorm norm;  ///< "1.norm"
  Conv2d project;  ///< "3": [2,1,1,C/G], without bias
  std::int64_t groups;

  OffsetNetwork(const DAttentionOptions& options, Random& random);
  Tensor operator()(const Tensor& q) const;  ///< q [N,H,W,C] to raw offsets [N,Hk,Wk,G,2]
  void visit(Visitor& v);
};

/// y = W_out (mix + encoding(q)) + b_out of x [N,H,W,C] (15). Parameters have the names of the published
/// implementation.
struct DAttention {
  DAttentionOptions options;
  OffsetNetwork conv_offset;
  Conv2d proj_q, proj_k, proj_v, proj_out;
  Dropout attn_drop, proj_drop;
  std::optional<Conv2d> dwc;  ///< "rpe_table" where the encoding is the convolution
  DAttentionBias bias;        ///< "rpe_table", or "rpe_table.0" and "rpe_table.2", otherwise

  /// Throws Error for options that cannot be met, with the option's name and the numbers. Starts like PyTorch's layers;
  /// tables are truncated normal of standard deviation 0.01.
  DAttention(const DAttentionOptions& options, Random& random);

  /// Maps of other sizes than q_h x q_w are welcome wherever the encoding allows it; Error otherwise.
  Tensor operator()(const Tensor& x) const;
  /// Where a call samples: [N,G,Hk,Wk,2] as (y, x), -1 and 1 being the centres of the outer pixels. Not seen by
  /// autograd.
  Tensor positions(const Tensor& x) const;
  /// The same without offsets: the reference points (1), for maps of H x W.
  Tensor reference_points(std::int64_t images, std::int64_t height, std::int64_t width) const;

  void visit(Visitor& v);
};

}  // namespace dattn
