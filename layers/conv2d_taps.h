// Which taps of a kernel meet which places of the source, along one side of a convolution.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "core/memory.h"
#include "layers/conv2d.h"

namespace dattn {

template <typename T>
using PoolVector = std::vector<T, PoolAllocator<T>>;

/// The targets [begin, end) that one tap of a kernel finds inside the source: target t meets place t stride + shift.
struct TapTargets {
  std::int64_t shift, begin, end;

  TapTargets(std::int64_t tap, std::int64_t targets, std::int64_t sources, const Conv2dOptions& o)
      : shift(tap * o.dilation - o.padding),
        begin(shift >= 0 ? 0 : (-shift + o.stride - 1) / o.stride),
        end(shift >= sources ? 0 : std::min(targets, (sources - 1 - shift) / o.stride + 1)) {}
};

/// Forward, a target is a place of y, and tap k meets place t s - p + k d of the source x. For the data gradient, a
/// target is a place of dx, the taps are those of the flipped kernel (tap k stands for filter row K - 1 - k), and it
/// meets place (t + p - (K - 1 - k) d) / s of the source dy, where that is whole. What falls outside the source is left
/// out.
class Taps {
 public:
  struct Tap {
    std::int32_t k, source;
    bool operator==(const Tap&) const = default;
  };

  Taps(std::int64_t targets, std::int64_t sources, std::int64_t kernel, const Conv2dOptions& o, bool gradient) {
    begin_.reserve(static_cast<std::size_t>(targets + 1));
    taps_.reserve(static_cast<std::size_t>(targets * kernel));
    for (std::int64_t t = 0; t < targets; ++t) {
      begin_.push_back(taps_.size());
      for (std::int64_t k = 0; k < kernel; ++k) {
        std::int64_t source = t * o.stride - o.padding + k * o.dilation;
        if (gradient) {
          source = t + o.padding - (kernel - 1 - k) * o.dilation;
          if (source % o.stride != 0) continue;
          source /= o.stride;
        }
        if (source < 0 || source >= sources) continue;
        taps_.push_back({static_cast<std::int32_t>(k), static_cast<std::int32_t>(source)});
      }
    }
    begin_.push_back(taps_.size());
  }

  std::int64_t targets() const { return static_cast<std::int64_t>(begin_.size()) - 1; }
  /// The taps of target t, by ascending source.
  std::span<const Tap> of(std::int64_t t) const {
    const auto i = static_cast<std::size_t>(t);
    return {taps_.data() + begin_[i], begin_[i + 1] - begin_[i]};
  }

 private:
  PoolVector<Tap> taps_;
  PoolVector<std::size_t> begin_;
};

}  // namespace dattn
