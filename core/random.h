// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace dattn {

/// What random numbers are drawn for. Part of the counter, so that two purposes never share a number.
enum class Purpose : std::uint32_t {
  init = 1,
  dropout,
  drop_path,
  shuffle,
  translate,
  flip,
  cutout,
  mixup,
  synthetic,
  test
};

/// The four 32-bit words of one Philox block.
std::array<std::uint32_t, 4> philox(std::uint64_t key, std::uint64_t counter_low, std::uint64_t counter_high);

/// A stream of numbers fixed by (seed, step, purpose): number i of a stream is the same wherever and in whatever order
/// it is drawn. A value type of four words; it holds no state but the place of next().
class Random {
 public:
  /// `seed` is the key; `step` counts training steps, epochs or layers (32 bits of it are used); `lane`, below
  /// 2^24, tells apart equal uses (two dropout layers).
  explicit Random(std::uint64_t seed, Purpose purpose, std::uint64_t step = 0, std::uint32_t lane = 0)
      : seed_(seed), high_((step << 32) ^ (static_cast<std::uint64_t>(purpose) << 24) ^ lane) {}

  /// What philox() takes beside the number of a block: for kernels that draw the same numbers themselves.
  std::uint64_t key() const { return seed_; }
  std::uint64_t counter_high() const { return high_; }

  std::uint32_t bits(std::uint64_t i) const { return block(i / 4)[i % 4]; }
  /// Numbers 4i to 4i + 3 of bits(), at the price of one.
  std::array<std::uint32_t, 4> block(std::uint64_t i) const { return philox(seed_, i, high_); }
  /// bits(first), bits(first + 1), ... by SIMD, for masks and whole tensors.
  void fill_bits(std::uint64_t first, std::span<std::uint32_t> bits) const;
  /// In [0, 1), a multiple of 2^-24, exact in float.
  float uniform(std::uint64_t i) const { return static_cast<float>(bits(i) >> 8) * 0x1p-24f; }
  /// In 0 .. n-1 (n up to 2^32), without modulo bias worth naming (at most n / 2^32).
  std::uint64_t below(std::uint64_t i, std::uint64_t n) const { return (bits(i) * n) >> 32; }
  /// Standard normal (Box-Muller on numbers 2i and 2i+1).
  double normal(std::uint64_t i) const;

  // The same numbers one after the other.
  std::uint32_t next_bits() { return bits(place_++); }
  float next_uniform() { return uniform(place_++); }
  std::uint64_t next_below(std::uint64_t n) { return below(place_++, n); }
  double next_normal() { return normal(place_++); }

 private:
  std::uint64_t seed_, high_, place_ = 0;
};

/// Where training stands in the random numbers of its steps (dropout): all that has to be saved to draw them again.
struct RandomState {
  std::uint64_t seed = 0;
  std::uint64_t step = 0;  ///< counts forward passes that train; 32 bits of it are used
  /// The step in memory of a device, or null. Kernels there take it from there, when they run: a recorded step that is
  /// replayed draws the numbers of its own step.
  const std::int64_t* step_on_device = nullptr;
};

/// Set by the trainer before each forward pass, by the thread that runs it and not while operations run. Kernels never
/// read it: a module takes its numbers from it when it is called, and backward repeats those.
void set_random_step(std::uint64_t seed, std::uint64_t step);
RandomState random_state();

/// While it lives, kernels of a device take the step from `step`, in their memory. Until backward has run, it holds
/// there what set_random_step() was given.
class RandomStepOnDevice {
 public:
  explicit RandomStepOnDevice(const std::int64_t* step);
  ~RandomStepOnDevice();
  RandomStepOnDevice(const RandomStepOnDevice&) = delete;
  RandomStepOnDevice& operator=(const RandomStepOnDevice&) = delete;
};

/// Fills `order` with 0 .. n-1 in an order drawn from `random` (Fisher-Yates).
void permute(const Random& random, std::span<std::int64_t> order);

}  // namespace dattn
