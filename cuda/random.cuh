// The numbers of core/random.h on the device: the same integers and uniforms.
#pragma once

#include "core/random.h"
#include "cuda/common.cuh"

namespace dattn::cuda {

/// Four words of Philox4x32-10.
struct RandomBlock {
  std::uint32_t word[4];
};

/// dattn::Random for kernels.
struct DeviceRandom {
  std::uint64_t key, high;

  explicit DeviceRandom(const Random& random) : key(random.key()), high(random.counter_high()) {}

  /// The same stream so many steps further on; the step is the upper half of `high`.
  __device__ DeviceRandom after(std::int64_t steps) const {
    DeviceRandom other = *this;
    other.high += static_cast<std::uint64_t>(steps) << 32;
    return other;
  }

  __device__ RandomBlock block(std::uint64_t i) const {
    auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
    RandomBlock c{{static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32), static_cast<std::uint32_t>(high),
                   static_cast<std::uint32_t>(high >> 32)}};
#pragma unroll
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c.word[0], p1 = std::uint64_t{0xCD9E8D57u} * c.word[2];
      c = {{static_cast<std::uint32_t>(p1 >> 32) ^ c.word[1] ^ k0, static_cast<std::uint32_t>(p1),
            static_cast<std::uint32_t>(p0 >> 32) ^ c.word[3] ^ k1, static_cast<std::uint32_t>(p0)}};
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return c;
  }
  __device__ std::uint32_t bits(std::uint64_t i) const {
    const RandomBlock b = block(i / 4);
    const auto place = i % 4;
    return place < 2 ? (place == 0 ? b.word[0] : b.word[1]) : (place == 2 ? b.word[2] : b.word[3]);
  }
};

}  // namespace dattn::cuda
