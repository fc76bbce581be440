// The DAttention CNN: a small convolutional network with two attention blocks, after airbench94 (arXiv 2404.00498).
//   whiten 2x2 (frozen filters) -> GELU -> group1 -> attention1 -> group2 -> attention2 -> group3 -> max-pool 3 -> head
//   / 256
// A group is conv3x3, max-pool 2, BatchNorm, GELU, conv3x3, BatchNorm, GELU; an attention block is x +
// attention(BatchNorm(x)).
#pragma once

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

/// Two 3x3 convolutions without bias, whose first filters start as the identity, and BatchNorms whose scale stays 1.
struct ConvGroup {
  Conv2d conv1;
  BatchNorm2d norm1;
  Conv2d conv2;
  BatchNorm2d norm2;

  ConvGroup(std::int64_t in, std::int64_t out, Random& random);
  /// x [N,H,W,in] -> [N,H/2,W/2,out].
  Tensor operator()(const Tensor& x, const char* name);
  void visit(Visitor& v);
};

/// x + attention(BatchNorm(x)). The output projection starts at zero, so the block starts as the identity.
struct AttentionBlock {
  BatchNorm2d norm;
  std::variant<DAttention, SelfAttention> attention;

  AttentionBlock(std::int64_t channel, std::int64_t size, const std::string& kind, Random& random);
  Tensor operator()(const Tensor& x, const char* name);
  void visit(Visitor& v);
};

/// Images of 32 x 32 pixels.
struct DattnCnn : Classifier {
  Conv2d whiten;
  ConvGroup group1, group2, group3;
  std::optional<AttentionBlock> attention1, attention2;  ///< absent for --attention none
  Linear head;

  DattnCnn(const std::string& attention, std::int64_t classes, Random& random);
  Tensor forward(const Tensor& images) override;
  void visit(Visitor& v) override;
  /// Sets the whitening filters: eigenvectors of the covariance of 2x2 patches, scaled, and their negatives.
  void init_from_data(const Tensor& images) override;
};

}  // namespace dattn
