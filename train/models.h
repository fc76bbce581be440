// The networks that `train` knows, behind one interface.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/random.h"
#include "layers/module.h"

namespace dattn {

/// Types of activations that the programs know, by their names on the command line.
inline constexpr const char* kPrecisions[] = {"float32", "bfloat16"};
/// Error for other names.
Dtype precision_type(const std::string& name);

/// An image classifier. Activations have the type of the images given, float32 or bfloat16; logits are exact.
class Classifier {
 public:
  virtual ~Classifier() = default;
  /// images [N,H,W,3], normalised -> logits [N,classes].
  virtual Tensor forward(const Tensor& images) = 0;
  virtual void visit(Visitor& v) = 0;
  /// Sets what is computed from data rather than trained, from normalised images [n,H,W,3], before the first step.
  virtual void init_from_data(const Tensor& /*images*/) {}
};

/// Which kind of attention the blocks of dattn_cnn and dattn_cnn_wide hold.
inline constexpr const char* kAttentions[] = {"dattention", "self", "none"};
inline constexpr const char* kModels[] = {"dattn_cnn", "dattn_cnn_wide", "resnet18"};
/// Sides of the maps of dattn_cnn and dattn_cnn_wide that a block of attention can follow.
inline constexpr std::int64_t kAttentionMaps[] = {31, 15, 7};

struct ModelOptions {
  std::string name = "dattn_cnn";
  std::string attention = "dattention";
  std::int64_t classes = 10;
  std::vector<std::int64_t> attention_maps{15, 7};  ///< sides of the maps with an attention block, of kAttentionMaps
  std::int64_t attention_stride = 1;                ///< of DAttention: pixels from sample to sample
};

/// Makes a network with fresh weights drawn from `random`; Error for an unknown name.
std::unique_ptr<Classifier> make_model(const ModelOptions& options, Random& random);

}  // namespace dattn
