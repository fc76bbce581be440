// Networks by name.
#include "train/models.h"

#include "train/dattn_cnn.h"
#include "train/resnet18.h"

namespace dattn {

Dtype precision_type(const std::string& precision) {
  for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16}) {
    if (precision == name(dtype)) return dtype;
  }
  fail("precision: expected float32 or bfloat16, got {}", precision);
}

std::unique_ptr<Classifier> make_model(const ModelOptions& options, Random& random) {
  if (options.name == "dattn_cnn" || options.name == "dattn_cnn_wide") {
    const DattnCnnSizes& sizes = options.name == "dattn_cnn" ? kDattnCnn : kDattnCnnWide;
    return std::make_unique<DattnCnn>(sizes, options, random);
  }
  if (options.name == "resnet18") return std::make_unique<Resnet18>(options.classes, random);
  fail("model: expected dattn_cnn, dattn_cnn_wide or resnet18, got {}", options.name);
}

}  // namespace dattn
