// Whole-batch augmentation: from bytes in memory to normalised floats, flipped, shifted, cut out and mixed in one pass.
#pragma once

#include <span>

#include "core/kernel.h"
#include "datasets/images.h"

namespace dattn {

/// Alternating flip: half of the images, chosen by the seed, start mirrored, and every image changes side each epoch,
/// so that two epochs show each image both ways (Jordan, "94% on CIFAR-10 in 3.29 seconds", arXiv 2404.00498,
/// section 3.6).
enum class Flip { none, random, alternating };

struct AugmentOptions {
  std::int64_t translate =
      0;  ///< largest shift in pixels, each way; what comes in mirrors the border, which is not repeated
  Flip flip = Flip::none;
  std::int64_t cutout = 0;  ///< side in pixels of a square set to the mean, its centre anywhere (arXiv 1708.04552)
  double mixup =
      0;  ///< alpha of Beta(alpha, alpha), at most 1: an image is blended with another one (arXiv 1710.09412)
};

/// Refuses options that images of this size cannot take.
void check_augment(const AugmentOptions& options, std::int64_t height, std::int64_t width);

/// What happens to the images of one batch. Each output image is a weighted sum of P parts: P = 2 with mixup, else 1.
struct AugmentPlan {
  enum Column { image, shift_y, shift_x, mirrored, cut_y, cut_x, kColumns };
  Tensor parts;  ///< int32 [B,P,kColumns]: the image, where its pixels come from, and the corner of the square cut out
  Tensor weights;  ///< float32 [B,P], each row sums to 1
};

/// Draws the plan for the images `picks` of a set of shape `images` [N,H,W,3]. What happens to an image depends on
/// (seed, epoch, its index) alone, never on the batch it is in. The plan's tensors are reused where they have the right
/// size.
void draw_plan(const AugmentOptions& options, std::uint64_t seed, std::int64_t epoch,
               std::span<const std::int64_t> picks, const Shape& images, AugmentPlan& plan);

/// The normalised value of every byte in every channel: float32 [3,256].
Tensor normalisation_table(const Normalisation& normalisation);

/// y [B,H,W,3], float32 or bfloat16, from images [N,H,W,3] uint8: part p of image b takes pixel (i + shift_y, j +
/// shift_x), reflected at the borders, from the right where it is mirrored, through the table; the square of `cutout`
/// pixels a side is 0. A device gives the same bits as the CPU; an image outside of the set is NaN there.
extern Kernel<void(const Tensor& images, const Tensor& parts, const Tensor& weights, const Tensor& table,
                   std::int64_t cutout, Tensor& y)>
    augment_forward;

/// Class probabilities of a planned batch: y [B,classes] float32, the parts' weights at their labels.
void soft_targets(const Tensor& labels, const AugmentPlan& plan, Tensor& y);

/// Makes `x` a tensor of this shape and type; keeps the one it is where that fits.
void reuse(Tensor& x, const Shape& shape, Dtype dtype);

/// All images, normalised and otherwise as they are: float32 [N,H,W,3].
Tensor normalise(const Tensor& images, const Normalisation& normalisation);

}  // namespace dattn
