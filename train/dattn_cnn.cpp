// The DAttention CNN.
#include "train/dattn_cnn.h"

#include <algorithm>
#include <cmath>

#include "core/ops.h"
#include "layers/activation.h"
#include "layers/batchnorm_gelu.h"
#include "layers/conv2d_max_pool.h"
#include "layers/init.h"
#include "layers/pool2d.h"
#include "train/watch.h"

namespace dattn {

namespace {

constexpr double kWhitenEps = 5e-4;
constexpr std::int64_t kWhitened = 24;  // channels
// Heads of attention: eight, of which two share offsets, but none narrower than eight channels. So the 24 channels of
// the 31 x 31 map have three, with offsets each; their time grows with the number of heads.
constexpr std::int64_t kMostHeads = 8, kLeastHeadChannels = 8, kOffsetGroups = 4;

Conv2d identity_conv(std::int64_t in, std::int64_t out, Random& random) {
  Conv2d conv(in, out, 3, {.padding = 1}, false, random);
  init::dirac(conv.weight.value().slice(0, in));
  return conv;
}

BatchNorm2d fixed_scale_norm(std::int64_t channels) {
  return BatchNorm2d(channels, {.eps = 1e-12, .momentum = 0.4, .frozen_scale = true});
}

std::variant<DAttention, SelfAttention> make_attention(std::int64_t channel, std::int64_t size,
                                                       const ModelOptions& options, Random& random) {
  const std::int64_t heads = std::min(kMostHeads, channel / kLeastHeadChannels);
  if (options.attention == "self") return SelfAttention(channel, heads, random);
  const std::int64_t groups = heads % kOffsetGroups == 0 ? kOffsetGroups : heads;
  return DAttention({.channel = channel,
                     .q_h = size,
                     .q_w = size,
                     .n_heads = heads,
                     .n_groups = groups,
                     .stride = options.attention_stride},
                    random);
}

std::optional<AttentionBlock> make_block(std::int64_t channel, std::int64_t size, const ModelOptions& options,
                                         Random& random) {
  const auto& maps = options.attention_maps;
  if (options.attention == "none" || std::find(maps.begin(), maps.end(), size) == maps.end()) return std::nullopt;
  return AttentionBlock(channel, size, options, random);
}

}  // namespace

// --- group ---

ConvGroup::ConvGroup(std::int64_t in, std::int64_t out, int convolutions, Random& random)
    : conv1(identity_conv(in, out, random)),
      norm1(fixed_scale_norm(out)),
      conv2(identity_conv(out, out, random)),
      norm2(fixed_scale_norm(out)) {
  if (convolutions == 2) return;
  conv3 = identity_conv(out, out, random);
  norm3 = fixed_scale_norm(out);
}

Tensor ConvGroup::operator()(const Tensor& x, const char* name) {
  Tensor y = watch(name, "conv1", conv2d_max_pool2(x, conv1));
  const Tensor first = watch(name, "norm1", batchnorm_gelu(y, norm1));
  y = watch(name, "conv2", conv2(first));
  y = watch(name, "norm2", batchnorm_gelu(y, norm2));
  if (!conv3) return y;
  y = watch(name, "conv3", (*conv3)(y));
  y = watch(name, "norm3", (*norm3)(y));
  return gelu(add(first, y));
}

void ConvGroup::visit(Visitor& v) {
  v("conv1", conv1);
  v("norm1", norm1);
  v("conv2", conv2);
  v("norm2", norm2);
  v("conv3", conv3);
  v("norm3", norm3);
}

// --- attention block ---

AttentionBlock::AttentionBlock(std::int64_t channel, std::int64_t size, const ModelOptions& options, Random& random)
    : norm(channel), attention(make_attention(channel, size, options, random)) {
  std::visit(
      [](auto& a) {
        a.proj_out.weight.value().fill(0);
        a.proj_out.bias.value().fill(0);
      },
      attention);
}

Tensor AttentionBlock::operator()(const Tensor& x, const char* name) {
  const Tensor y = watch(name, "norm", norm(x));
  return add(x, watch(name, "attention", std::visit([&](auto& a) { return a(y); }, attention)));
}

void AttentionBlock::visit(Visitor& v) {
  v("norm", norm);
  std::visit([&](auto& a) { v("attention", a); }, attention);
}

// --- network ---

DattnCnn::DattnCnn(const DattnCnnSizes& sizes, const ModelOptions& options, Random& random)
    : whiten(3, kWhitened, 2, {}, true, random),
      group1(kWhitened, sizes.widths[0], sizes.convolutions, random),
      group2(sizes.widths[0], sizes.widths[1], sizes.convolutions, random),
      group3(sizes.widths[1], sizes.widths[2], sizes.convolutions, random),
      attention0(make_block(kWhitened, 31, options, random)),
      attention1(make_block(sizes.widths[0], 15, options, random)),
      attention2(make_block(sizes.widths[1], 7, options, random)),
      head(sizes.widths[2], options.classes, false, random) {
  whiten.weight = Parameter(whiten.weight.value(), Role::frozen);
  // The head starts with a standard deviation of 1; logits are divided by 16 sqrt(features) instead. So they start at
  // 1/16, and a step of SGD moves them as far, whatever the width.
  const auto w = head.weight.value().values<float>();
  double sum = 0, squares = 0;
  for (float v : w) sum += v, squares += static_cast<double>(v) * v;
  const auto n = static_cast<double>(w.size());
  const double deviation = std::sqrt((squares - sum * sum / n) / (n - 1));
  for (std::int64_t i = 0; i < head.weight.value().elements(); ++i)
    head.weight.value().data<float>()[i] /= static_cast<float>(deviation);
}

Tensor DattnCnn::forward(const Tensor& images) {
  check(images.rank() == 4 && images.size(1) == 32 && images.size(2) == 32 && images.size(3) == 3,
        "dattn_cnn: expected images [N,32,32,3], got {}", images.shape());
  Tensor x = gelu(watch("whiten", "", whiten(images)));  // [N,31,31,24]
  if (attention0) x = (*attention0)(x, "attention0");
  x = group1(x, "group1");  // [N,15,15,widths[0]]
  if (attention1) x = (*attention1)(x, "attention1");
  x = group2(x, "group2");  // [N,7,7,widths[1]]
  if (attention2) x = (*attention2)(x, "attention2");
  x = max_pool2d(group3(x, "group3"), 3);  // [N,1,1,widths[2]]
  const std::int64_t width = x.size(3);
  const Tensor features = cast(reshape(x, {x.size(0), width}), exact_type(x.dtype()));
  return scale(watch("head", "", head(features)), 1 / (16 * std::sqrt(static_cast<double>(width))));
}

void DattnCnn::visit(Visitor& v) {
  v("whiten", whiten);
  v("group1", group1);
  v("group2", group2);
  v("group3", group3);
  v("attention0", attention0);
  v("attention1", attention1);
  v("attention2", attention2);
  v("head", head);
}

void DattnCnn::init_from_data(const Tensor& images) { init::whitening(whiten.weight.value(), images, kWhitenEps); }

}  // namespace dattn
