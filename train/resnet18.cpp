// ResNet-18 for small images.
#include "train/resnet18.h"

#include "core/ops.h"
#include "layers/activation.h"
#include "layers/init.h"
#include "layers/pool2d.h"
#include "train/watch.h"

namespace dattn {

namespace {

// A convolution without bias, initialised for the ReLU that follows.
Conv2d plain_conv(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride, Random& random) {
  Conv2d conv(in, out, kernel, {.stride = stride, .padding = kernel / 2}, false, random);
  init::kaiming_normal(conv.weight.value(), 0, random, init::FanMode::out);
  return conv;
}

std::optional<BasicBlock::Downsample> make_downsample(std::int64_t in, std::int64_t out, std::int64_t stride,
                                                      Random& random) {
  if (in == out && stride == 1) return std::nullopt;
  return BasicBlock::Downsample{plain_conv(in, out, 1, stride, random), BatchNorm2d(out)};
}

std::vector<BasicBlock> stage(std::int64_t in, std::int64_t out, std::int64_t stride, Random& random) {
  return {BasicBlock(in, out, stride, random), BasicBlock(out, out, 1, random)};
}

}  // namespace

void BasicBlock::Downsample::visit(Visitor& v) {
  v("0", conv);
  v("1", norm);
}

BasicBlock::BasicBlock(std::int64_t in, std::int64_t out, std::int64_t stride, Random& random)
    : conv1(plain_conv(in, out, 3, stride, random)),
      bn1(out),
      conv2(plain_conv(out, out, 3, 1, random)),
      bn2(out),
      downsample(make_downsample(in, out, stride, random)) {}

Tensor BasicBlock::operator()(const Tensor& x) {
  const Tensor y = bn2(conv2(relu(bn1(conv1(x)))));
  return relu(add(y, downsample ? downsample->norm(downsample->conv(x)) : x));
}

void BasicBlock::visit(Visitor& v) {
  v("conv1", conv1);
  v("bn1", bn1);
  v("conv2", conv2);
  v("bn2", bn2);
  v("downsample", downsample);
}

Resnet18::Resnet18(std::int64_t classes, Random& random)
    : conv1(plain_conv(3, 64, 3, 1, random)),
      bn1(64),
      layer1(stage(64, 64, 1, random)),
      layer2(stage(64, 128, 2, random)),
      layer3(stage(128, 256, 2, random)),
      layer4(stage(256, 512, 2, random)),
      fc(512, classes, true, random) {}

Tensor Resnet18::forward(const Tensor& images) {
  Tensor x = relu(watch("conv1", "", bn1(conv1(images))));
  struct {
    const char* name;
    std::vector<BasicBlock>& blocks;
  } const stages[] = {{"layer1", layer1}, {"layer2", layer2}, {"layer3", layer3}, {"layer4", layer4}};
  for (const auto& [name, blocks] : stages) {
    for (std::size_t i = 0; i < blocks.size(); ++i) x = watch(name, i == 0 ? "0" : "1", blocks[i](x));
  }
  return watch("fc", "", fc(cast(global_avg_pool(x), exact_type(x.dtype()))));
}

void Resnet18::visit(Visitor& v) {
  v("conv1", conv1);
  v("bn1", bn1);
  v("layer1", layer1);
  v("layer2", layer2);
  v("layer3", layer3);
  v("layer4", layer4);
  v("fc", fc);
}

}  // namespace dattn
