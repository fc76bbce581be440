// ResNet-18 in its CIFAR form (He et al., arXiv 1512.03385): a 3x3 stem without pooling, four stages of two basic
// blocks.
#pragma once

#include <optional>
#include <vector>

#include "layers/batchnorm.h"
#include "layers/conv2d.h"
#include "layers/linear.h"
#include "train/models.h"

namespace dattn {

/// relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)); the shortcut is a 1x1 convolution where shapes differ.
struct BasicBlock {
  /// Named `downsample.0` and `downsample.1`, as in torchvision.
  struct Downsample {
    Conv2d conv;
    BatchNorm2d norm;
    void visit(Visitor& v);
  };
  Conv2d conv1;
  BatchNorm2d bn1;
  Conv2d conv2;
  BatchNorm2d bn2;
  std::optional<Downsample> downsample;

  BasicBlock(std::int64_t in, std::int64_t out, std::int64_t stride, Random& random);
  Tensor operator()(const Tensor& x);
  void visit(Visitor& v);
};

/// Images of any size.
struct Resnet18 : Classifier {
  Conv2d conv1;
  BatchNorm2d bn1;
  std::vector<BasicBlock> layer1, layer2, layer3, layer4;
  Linear fc;

  Resnet18(std::int64_t classes, Random& random);
  Tensor forward(const Tensor& images) override;
  void visit(Visitor& v) override;
};

}  // namespace dattn
