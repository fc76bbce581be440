// Drawing what happens to each image, and the CPU kernel that does it.
#include "datasets/augment.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/parallel.h"
#include "core/random.h"

namespace dattn {

namespace {

/// A number of Beta(alpha, alpha), 0 < alpha <= 1, by Joehnk's method from the 64 random numbers of image `i`:
/// u^(1/alpha) and v^(1/alpha) are kept where their sum is at most 1, which is at least every second time. In
/// logarithms, as they underflow.
float beta(const Random& random, std::int64_t i, double alpha) {
  double u = 0, v = 0;
  for (std::uint64_t k = 0; k < 64; k += 2) {
    const auto log_power = [&](std::uint64_t j) {
      return std::log((random.bits(64 * static_cast<std::uint64_t>(i) + j) + 1.0) * 0x1p-32) / alpha;
    };
    u = log_power(k), v = log_power(k + 1);
    if (std::exp(u) + std::exp(v) <= 1) break;
  }
  return static_cast<float>(1 / (1 + std::exp(v - u)));
}

bool is_mirrored(Flip flip, std::uint64_t seed, std::int64_t epoch, std::int64_t image) {
  if (flip == Flip::none) return false;
  const bool alternating = flip == Flip::alternating;
  const Random random(seed, Purpose::flip, alternating ? 0 : static_cast<std::uint64_t>(epoch), alternating);
  const bool drawn = random.bits(static_cast<std::uint64_t>(image)) & 1;
  return alternating ? drawn != (epoch % 2 == 1) : drawn;
}

/// Position i of a line of n pixels continued by reflection; |i| and i - n are below n.
std::int64_t reflect(std::int64_t i, std::int64_t n) { return i < 0 ? -i : i >= n ? 2 * (n - 1) - i : i; }

/// Adds weight * (the part) to y [H,W,3], or writes it where it is the first.
template <bool kFirst>
void blend_part(const std::uint8_t* x, const std::int32_t* part, float weight, const float* table, std::int64_t cutout,
                std::int64_t height, std::int64_t width, float* y) {
  using Plan = AugmentPlan;
  for (std::int64_t i = 0; i < height; ++i) {
    const std::uint8_t* row = x + reflect(i + part[Plan::shift_y], height) * width * 3;
    const bool cut_row = i >= part[Plan::cut_y] && i < part[Plan::cut_y] + cutout;
    for (std::int64_t j = 0; j < width; ++j, y += 3) {
      const std::int64_t from = reflect(j + part[Plan::shift_x], width);
      const std::uint8_t* pixel = row + 3 * (part[Plan::mirrored] ? width - 1 - from : from);
      const bool cut = cut_row && j >= part[Plan::cut_x] && j < part[Plan::cut_x] + cutout;
      for (std::int64_t c = 0; c < 3; ++c) {
        const float value = cut ? 0.0f : weight * table[256 * c + pixel[c]];
        y[c] = kFirst ? value : y[c] + value;
      }
    }
  }
}

void augment_forward_cpu(const Tensor& images, const Tensor& parts, const Tensor& weights, const Tensor& table,
                         std::int64_t cutout, Tensor& y) {
  const std::int64_t height = images.size(1), width = images.size(2), values = height * width * 3;
  const std::int64_t parts_each = parts.size(1);
  const auto* x = images.data<std::uint8_t>();
  const auto* w = weights.data<float>();
  const auto* row = parts.data<std::int32_t>();
  const auto* t = table.data<float>();
  auto* out = y.data<float>();
  parallel_for(y.size(0), 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) {
      for (std::int64_t p = 0; p < parts_each; ++p) {
        const std::int32_t* part = row + (b * parts_each + p) * AugmentPlan::kColumns;
        const auto blend = p == 0 ? blend_part<true> : blend_part<false>;
        blend(x + part[AugmentPlan::image] * values, part, w[b * parts_each + p], t, cutout, height, width,
              out + b * values);
      }
    }
  });
}

}  // namespace

constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Tensor&, std::int64_t, Tensor&)>
    augment_forward{"augment_forward", augment_forward_cpu};

void reuse(Tensor& x, const Shape& shape, Dtype dtype) {
  if (!x || x.shape() != shape || x.dtype() != dtype) x = Tensor::empty(shape, dtype);
}

void check_augment(const AugmentOptions& options, std::int64_t height, std::int64_t width) {
  const std::int64_t side = std::min(height, width);
  check(options.translate >= 0 && options.translate < side,
        "augment: translate expects 0 to {} pixels for images of {}x{} (reflection needs a pixel to mirror), got {}",
        side - 1, height, width, options.translate);
  check(options.cutout >= 0 && options.cutout <= side,
        "augment: cutout expects 0 to {} pixels for images of {}x{}, got {}", side, height, width, options.cutout);
  check(options.mixup >= 0 && options.mixup <= 1, "augment: mixup expects an alpha of 0 to 1, got {}", options.mixup);
}

void draw_plan(const AugmentOptions& options, std::uint64_t seed, std::int64_t epoch,
               std::span<const std::int64_t> picks, const Shape& images, AugmentPlan& plan) {
  const auto step = static_cast<std::uint64_t>(epoch);
  const Random shift(seed, Purpose::translate, step), cut(seed, Purpose::cutout, step), mix(seed, Purpose::mixup, step);
  const std::int64_t batch = static_cast<std::int64_t>(picks.size()), parts = options.mixup > 0 ? 2 : 1;
  reuse(plan.parts, {batch, parts, AugmentPlan::kColumns}, Dtype::int32);
  reuse(plan.weights, {batch, parts}, Dtype::float32);
  auto* row = plan.parts.data<std::int32_t>();
  auto* weight = plan.weights.data<float>();
  const auto place = [&](std::int64_t image) {
    const auto number = 2 * static_cast<std::uint64_t>(image);
    const auto pixels = [&](const Random& random, std::uint64_t which, std::int64_t n, std::int64_t from) {
      return static_cast<std::int32_t>(
          from + static_cast<std::int64_t>(random.below(number + which, static_cast<std::uint64_t>(n))));
    };
    const std::int64_t k = options.translate, corner = -options.cutout / 2;
    row[AugmentPlan::image] = static_cast<std::int32_t>(image);
    row[AugmentPlan::shift_y] = pixels(shift, 0, 2 * k + 1, -k);
    row[AugmentPlan::shift_x] = pixels(shift, 1, 2 * k + 1, -k);
    row[AugmentPlan::mirrored] = is_mirrored(options.flip, seed, epoch, image);
    row[AugmentPlan::cut_y] = pixels(cut, 0, images[1], corner);
    row[AugmentPlan::cut_x] = pixels(cut, 1, images[2], corner);
    row += AugmentPlan::kColumns;
  };
  const Random partner(seed, Purpose::mixup, step, 1);
  for (const std::int64_t image : picks) {
    place(image);
    *weight++ = parts == 2 ? beta(mix, image, options.mixup) : 1.0f;
    if (parts == 1) continue;
    place(static_cast<std::int64_t>(
        partner.below(static_cast<std::uint64_t>(image), static_cast<std::uint64_t>(images[0]))));
    *weight = 1 - weight[-1];
    ++weight;
  }
}

Tensor normalisation_table(const Normalisation& normalisation) {
  Tensor table = Tensor::empty({3, 256});
  for (std::size_t c = 0; c < 3; ++c) {
    for (std::size_t v = 0; v < 256; ++v) {
      table.data<float>()[256 * c + v] =
          static_cast<float>((static_cast<double>(v) / 255 - normalisation.mean[c]) / normalisation.std[c]);
    }
  }
  return table;
}

void soft_targets(const Tensor& labels, const AugmentPlan& plan, Tensor& y) {
  y.fill(0);
  const std::int64_t parts = plan.parts.size(1), classes = y.size(1);
  const auto* label = labels.data<std::int64_t>();
  const auto* row = plan.parts.data<std::int32_t>();
  for (std::int64_t i = 0; i < plan.weights.elements(); ++i, row += AugmentPlan::kColumns) {
    y.data<float>()[i / parts * classes + label[row[AugmentPlan::image]]] += plan.weights.data<float>()[i];
  }
}

Tensor normalise(const Tensor& images, const Normalisation& normalisation) {
  const std::int64_t n = images.size(0);
  std::vector<std::int64_t> all(static_cast<std::size_t>(n));
  std::iota(all.begin(), all.end(), 0);
  AugmentPlan plan;
  draw_plan({}, 0, 0, all, images.shape(), plan);
  Tensor y = Tensor::empty(images.shape());
  augment_forward(images, plan.parts, plan.weights, normalisation_table(normalisation), 0, y);
  return y;
}

}  // namespace dattn
