// Dropout y_i = x_i keep_i / (1 - p) (Srivastava et al., JMLR 15, 2014) and DropPath, which drops whole images (Huang
// et al., "Deep networks with stochastic depth", ECCV 2016), with masks that are computed and never stored.
//
// Number i of a mask depends on (seed, step, lane, i) alone: seed and step come from random_state() (core/random.h)
// when the module is called, the lane from the Random that the module was built with. So any device and any number of
// threads draws the same mask, backward draws it again, and a resumed run repeats it. A module called twice in one step
// drops the same elements twice.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/autograd.h"
#include "core/kernel.h"
#include "core/random.h"
#include "layers/module.h"

namespace dattn {

/// Which elements of an index space are dropped. A plain value for kernels; the default drops nothing.
struct DropoutMask {
  Random random{0, Purpose::dropout};
  std::uint32_t threshold = 0;                   ///< p 2^32: element i is dropped where random.bits(i) is below
  double scale = 1;                              ///< 1 / (1 - p)
  const std::int64_t* step_on_device = nullptr;  ///< RandomState's, for kernels there

  DropoutMask() = default;
  /// 0 <= p < 1; Error otherwise.
  DropoutMask(double p, const Random& numbers, const std::int64_t* step_on_device = nullptr);

  bool drops() const { return threshold > 0; }
  bool keep(std::uint64_t i) const { return random.bits(i) >= threshold; }
  /// What element i is multiplied by: 0, or 1 / (1 - p).
  double factor(std::uint64_t i) const { return keep(i) ? scale : 0; }
  /// factors[j] = factor(first + j) for j in [0, n): much faster than one by one.
  template <typename T>
  void factors(std::uint64_t first, std::int64_t n, T* factors) const;
};

/// y = x times the mask's factors; `run` neighbouring elements (in the flat order) share one, so x's flat element i has
/// factor(i / run); Error unless `run` divides x's elements. A linear map that is its own transpose: backward is the
/// same kernel on dy.
Tensor dropout(const Tensor& x, const DropoutMask& mask, std::int64_t run = 1);
extern Kernel<void(const Tensor& x, const DropoutMask& mask, std::int64_t run, Tensor& y)> dropout_apply;

/// Drops elements of x, of any shape, with probability p while training; the identity otherwise.
struct Dropout {
  double p;
  std::uint32_t lane;  ///< tells this layer's masks from those of others
  bool training = true;

  /// 0 <= p < 1; Error otherwise. Takes one number of `random`, whatever p.
  Dropout(double p, Random& random);
  /// The mask of the current step, for kernels that draw it themselves; it drops nothing outside training.
  DropoutMask mask() const;
  Tensor operator()(const Tensor& x) const;
  void visit(Visitor& v) { v.mode(training); }
};

/// Drops whole images of x [N, ...] with probability p while training: for the branch of a residual block.
struct DropPath {
  double p;
  std::uint32_t lane;
  bool training = true;

  /// As Dropout.
  DropPath(double p, Random& random);
  /// Number n of the mask is image n's.
  DropoutMask mask() const;
  Tensor operator()(const Tensor& x) const;
  void visit(Visitor& v) { v.mode(training); }
};

template <typename T>
void DropoutMask::factors(std::uint64_t first, std::int64_t n, T* factors) const {
  std::array<std::uint32_t, 256> bits;
  const auto kept = static_cast<T>(scale);
  for (std::int64_t begin = 0; begin < n; begin += std::ssize(bits)) {
    const std::int64_t count = std::min<std::int64_t>(std::ssize(bits), n - begin);
    random.fill_bits(first + static_cast<std::uint64_t>(begin), {bits.data(), static_cast<std::size_t>(count)});
    for (std::int64_t j = 0; j < count; ++j) factors[begin + j] = bits[j] >= threshold ? kept : T(0);
  }
}

}  // namespace dattn
