// A network of a few hundred numbers and a few images for it: for tests of what goes on around a network.
#pragma once

#include "core/ops.h"
#include "datasets/images.h"
#include "layers/batchnorm_gelu.h"
#include "layers/conv2d.h"
#include "layers/linear.h"
#include "layers/pool2d.h"
#include "op_cases.h"
#include "train/models.h"

namespace dattn::test {

/// A convolution, BatchNorm and GELU, the mean over all pixels, and a linear layer, with weights that tell images
/// apart.
class TinyClassifier : public Classifier {
 public:
  explicit TinyClassifier(std::int64_t classes) : TinyClassifier(classes, Random(1, Purpose::test)) {}
  Tensor forward(const Tensor& images) override {
    const Tensor x = global_avg_pool(batchnorm_gelu(conv_(images), norm_));  // [N,8]
    return head_(cast(x, exact_type(x.dtype())));
  }
  void visit(Visitor& v) override {
    v("conv", conv_);
    v("norm", norm_);
    v("head", head_);
  }

 private:
  TinyClassifier(std::int64_t classes, Random random)
      : conv_(3, 8, 3, {}, true, random), norm_(8), head_(8, classes, true, random) {
    randomise(parameters(*this), 1);
  }

  Conv2d conv_;
  BatchNorm2d norm_;
  Linear head_;
};

/// `count` images of 8 x 6 pixels in `classes` classes, which differ in brightness.
inline ImageSet tiny_images(std::int64_t count, std::int64_t classes) {
  ImageSet set{Tensor::empty({count, 8, 6, 3}, Dtype::uint8), Tensor::empty({count}, Dtype::int64), {}};
  Random random(2, Purpose::test);
  for (std::int64_t i = 0; i < set.images.elements(); ++i) {
    const auto label = static_cast<std::uint64_t>(i / 144 % classes);
    set.images.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(20 * label + random.next_below(100));
  }
  for (std::int64_t i = 0; i < count; ++i) set.labels.data<std::int64_t>()[i] = i % classes;
  for (std::int64_t c = 0; c < classes; ++c) set.class_names.push_back(fmt::format("class {}", c));
  return set;
}

inline constexpr Normalisation kTinyNormalisation{{0.4f, 0.5f, 0.6f}, {0.2f, 0.25f, 0.3f}};

}  // namespace dattn::test
