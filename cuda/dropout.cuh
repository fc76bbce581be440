// The mask of layers/dropout.h for kernels, which draw its numbers themselves.
#pragma once

#include "cuda/random.cuh"
#include "cuda/recording.h"
#include "layers/dropout.h"

namespace dattn::cuda {

__device__ const std::int64_t kNoSteps = 0;

struct DeviceDropoutMask {
  DeviceRandom random;
  const std::int64_t* step;  // of the numbers, `random` being at step 0; or null where `random` is at the step
  std::uint32_t threshold;
  float scale;

  explicit DeviceDropoutMask(const DropoutMask& mask)
      : random(mask.random),
        step(mask.step_on_device),
        threshold(mask.threshold),
        scale(static_cast<float>(mask.scale)) {
    if (step != nullptr) {
      random.high = static_cast<std::uint32_t>(random.high);
    } else if (mask.drops()) {
      refuse_in_recording("dropout by a step of the host", "a replay would draw the same mask again");
    }
  }

  // A choice between pointers takes fewer registers than one between numbers.
  __device__ DeviceRandom numbers() const { return random.after(*(step != nullptr ? step : &kNoSteps)); }
  __device__ float factor_of(std::uint32_t bits) const { return bits >= threshold ? scale : 0.0f; }
  /// What element i is multiplied by: 0, or 1 / (1 - p).
  __device__ float factor(std::int64_t i) const { return factor_of(numbers().bits(static_cast<std::uint64_t>(i))); }
};

}  // namespace dattn::cuda
