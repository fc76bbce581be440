// Philox4x32-10, one block at a time, and the state of the running step.
#include "core/random.h"

#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

namespace dattn {

namespace {
RandomState current;
}

void set_random_step(std::uint64_t seed, std::uint64_t step) { current.seed = seed, current.step = step; }
RandomState random_state() { return current; }

RandomStepOnDevice::RandomStepOnDevice(const std::int64_t* step) { current.step_on_device = step; }
RandomStepOnDevice::~RandomStepOnDevice() { current.step_on_device = nullptr; }

std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter_low, std::uint64_t counter_high) {
  constexpr std::uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  std::array<std::uint32_t, 4> c = {
      static_cast<std::uint32_t>(counter_low), static_cast<std::uint32_t>(counter_low >> 32),
      static_cast<std::uint32_t>(counter_high), static_cast<std::uint32_t>(counter_high >> 32)};
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = static_cast<std::uint64_t>(kMultiplier0) * c[0];
    const std::uint64_t p1 = static_cast<std::uint64_t>(kMultiplier1) * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return c;
}

double Random::normal(std::uint64_t i) const {
  // In (0, 1], so that the logarithm is finite.
  const double u = (static_cast<double>(bits(2 * i)) + 1) * 0x1p-32;
  const double angle = 2 * std::numbers::pi * static_cast<double>(bits(2 * i + 1)) * 0x1p-32;
  return std::sqrt(-2 * std::log(u)) * std::cos(angle);
}

void permute(const Random& random, std::span<std::int64_t> order) {
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i, i)]);
}

}  // namespace dattn
