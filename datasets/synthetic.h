// The embedded data set: ten classes of shapes, drawn with soft edges in random places, sizes, turns and colours over a
// gradient with clutter and noise, in CIFAR's format.
#pragma once

#include "datasets/images.h"

namespace dattn {

struct SyntheticOptions {
  std::int64_t train = 10000, test = 2000;  ///< numbers of images
  std::uint64_t seed = 0;
};

/// Image i of a split depends on (seed, split, i) alone; its class is i mod 10.
DataSets make_synthetic(const SyntheticOptions& options = {});

}  // namespace dattn
