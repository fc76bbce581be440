// The DAttention CNN: a small convolutional network with up to three attention blocks, after airbench94 and, in its
// wide form, airbench96 (arXiv 2404.00498).
//   whiten 2x2 (frozen filters) -> GELU -> attention0 -> group1 -> attention1 -> group2 -> attention2 -> group3
//   -> max-pool 3 -> head / (16 sqrt(features))
// A group is conv3x3, max-pool 2, BatchNorm, GELU, conv3x3, BatchNorm, GELU, and in the wide form a third convolution:
// + x' after its BatchNorm, x' being what the second convolution was given, then GELU. An attention block is x +
// attention(BatchNorm(x)); there is none at attention0 unless it is asked for.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <variant>

#include "layers/batchnorm.h"
#include "layers/conv2d.h"
#include "layers/dattention.h"
#include "layers/linear.h"
#include "layers/self_attention.h"
#include "train/models.h"

namespace dattn {

/// The sizes of a network.
struct DattnCnnSizes {
  std::array<std::int64_t, 3> widths;  ///< channels of the groups
  int convolutions;                    ///< of a group: 2 or 3
};
inline constexpr DattnCnnSizes kDattnCnn{{64, 256, 256}, 2}, kDattnCnnWide{{128, 384, 512}, 3};

/// Two or three 3x3 convolutions without bias, whose first filters start as the identity, and BatchNorms whose scale
/// stays 1.
struct ConvGroup {
  Conv2d conv1;
  BatchNorm2d norm1;
  Conv2d conv2;
  BatchNorm2d norm2;
  std::optional<Conv2d> conv3;
  std::optional<BatchNorm2d> norm3;

  ConvGroup(std::int64_t in, std::int64_t out, int convolutions, Random& random);
  /// x [N,H,W,in] -> [N,H/2,W/2,out].
  Tensor operator()(const Tensor& x, const char* name);
  void visit(Visitor& v);
};

/// x + attention(BatchNorm(x)). The output projection starts at zero, so the block starts as the identity.
struct AttentionBlock {
  BatchNorm2d norm;
  std::variant<DAttention, SelfAttention> attention;

  AttentionBlock(std::int64_t channel, std::int64_t size, const ModelOptions& options, Random& random);
  Tensor operator()(const Tensor& x, const char* name);
  void visit(Visitor& v);
};

/// Images of 32 x 32 pixels.
struct DattnCnn : Classifier {
  Conv2d whiten;
  ConvGroup group1, group2, group3;
  std::optional<AttentionBlock> attention0, attention1, attention2;  ///< on maps of 31, 15 and 7 pixels a side
  Linear head;

  DattnCnn(const DattnCnnSizes& sizes, const ModelOptions& options, Random& random);
  Tensor forward(const Tensor& images) override;
  void visit(Visitor& v) override;
  /// Sets the whitening filters: eigenvectors of the second moments of 2x2 patches, scaled, and their
  /// negatives (init::whitening).
  void init_from_data(const Tensor& images) override;
};

}  // namespace dattn
