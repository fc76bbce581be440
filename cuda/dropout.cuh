// The mask of layers/dropout.h for kernels, which draw its numbers themselves.
#pragma once

#include "cuda/random.cuh"
#include "cuda/recording.h"
#include "layers/dropout.h"

namespace dattn::cuda {

struct DeviceDropoutMask {
  DeviceRandom random;
  const std::int64_t* step;  // of the numbers, or null: that of `random`
  std::uint32_t threshold;
  float scale;

  explicit DeviceDropoutMask(const DropoutMask& mask)
      : random(mask.random),
        step(mask.step_on_device),
        threshold(mask.threshold),
        scale(static_cast<float>(mask.scale)) {
    if (mask.drops() && step == nullptr)
      refuse_in_recording("dropout by a step of the host", "a replay would draw the same mask again");
  }

  __device__ DeviceRandom numbers() const { return step != nullptr ? random.at_step(*step) : random; }
  __device__ float factor_of(std::uint32_t bits) const { return bits >= threshold ? scale : 0.0f; }
  /// What element i is multiplied by: 0, or 1 / (1 - p).
  __device__ float factor(std::int64_t i) const { return factor_of(numbers().bits(static_cast<std::uint64_t>(i))); }
};

}  // namespace dattn::cuda
