// Sweeps over x [S,R,C], S segments of R rows, with SIMD over the channels: sums, moments and affine maps for each
// channel of a segment. x may be in bfloat16, its sums are not. BatchNorm is one segment; in GroupNorm and global
// pooling an image is one. Included by kernel files as core/simd.h is.
#if defined(DATTN_LAYERS_CHANNEL_SWEEPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DATTN_LAYERS_CHANNEL_SWEEPS_INL_H_
#undef DATTN_LAYERS_CHANNEL_SWEEPS_INL_H_
#else
#define DATTN_LAYERS_CHANNEL_SWEEPS_INL_H_
#endif

#include <algorithm>
#include <numeric>

#include "core/memory.h"
#include "core/parallel.h"
#include "core/simd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

/// How x is cut: into tiles of whole rows of one segment, and a tile into periods. A period is one row, or several
/// short rows read as one, so that vectors are full whatever C is.
struct ChannelSweep {
  static constexpr std::int64_t kLanes = 16;  // of the widest vectors

  std::int64_t segments, rows, channels;
  std::int64_t period;     // elements, a multiple of C
  std::int64_t tile_rows;  // a multiple of the rows of a period
  std::int64_t tiles;      // of one segment

  ChannelSweep(std::int64_t s, std::int64_t r, std::int64_t c)
      : segments(s), rows(r), channels(c), period(c), tile_rows(1), tiles(0) {
    if (c == 0) return;
    if (std::lcm(c, kLanes) <= 64 * kLanes) period = std::lcm(c, kLanes);
    while (period < 4 * kLanes) period *= 2;
    tile_rows = period / channels * std::max<std::int64_t>(16, kElementTile / period);
    tiles = tile_count(rows, tile_rows);
  }

  /// Calls f(tile, segment, begin, count) for every tile: elements [begin, begin + count) of x, the rows of one
  /// segment.
  template <typename F>
  void for_tiles(F&& f) const {
    const std::int64_t elements = std::min(tile_rows, rows) * channels;
    const std::int64_t together = std::max<std::int64_t>(1, kElementTile / std::max<std::int64_t>(1, elements));
    parallel_for(segments * tiles, together, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t tile = first; tile < last; ++tile) {
        const std::int64_t segment = tile / tiles, row = tile % tiles * tile_rows;
        f(tile, segment, (segment * rows + row) * channels, std::min(tile_rows, rows - row) * channels);
      }
    });
  }

  /// Rows of a tile.
  std::int64_t rows_of(std::int64_t tile) const { return std::min(tile_rows, rows - tile % tiles * tile_rows); }
};

/// Calls f(d, i, j) with vectors of elements i of [0, count), which are elements j of their period.
template <typename T, typename F>
HWY_INLINE void for_periods(std::int64_t count, std::int64_t period, F&& f) {
  for (std::int64_t i = 0; i < count; i += period) {
    for_lanes<T>(std::min(period, count - i), [&](auto d, std::int64_t j) HWY_ATTR { f(d, i + j, j); });
  }
}

/// to[j] = from[j mod C] over one period.
template <typename T>
HWY_INLINE void repeat_channels(const ChannelSweep& sweep, const T* from, T* to) {
  for (std::int64_t j = 0; j < sweep.period; j += sweep.channels) std::copy_n(from, sweep.channels, to + j);
}

/// sums[c] of the first C elements = the sum over the rows of a period; the other elements are left as they are.
template <typename T>
HWY_INLINE void fold_period(const ChannelSweep& sweep, T* sums) {
  for (std::int64_t j = sweep.channels; j < sweep.period; ++j) sums[j % sweep.channels] += sums[j];
}

/// a[c] and b[c] = sums over the rows of one tile, gathered by f(d, i, j, sum_a, sum_b) adding to its last two
/// arguments. a and b [period] are scratch beyond the first C.
template <typename T, typename F>
HWY_INLINE void sum_rows(const ChannelSweep& sweep, std::int64_t count, T* a, T* b, F&& f) {
  const std::int64_t period = sweep.period;
  std::fill_n(a, period, T(0));
  std::fill_n(b, period, T(0));
  const auto add_periods = [&](auto n, std::int64_t i, std::int64_t width) HWY_ATTR {
    for_lanes<T>(width, [&](auto d, std::int64_t j) HWY_ATTR {
      auto sum_a = hn::LoadU(d, a + j), sum_b = hn::LoadU(d, b + j);
      for (int k = 0; k < n.value; ++k) f(d, i + k * period + j, j, sum_a, sum_b);
      hn::StoreU(sum_a, d, a + j);
      hn::StoreU(sum_b, d, b + j);
    });
  };
  std::int64_t i = 0;
  // Four short periods at a time spare loads and stores of the sums; long ones would leave memory in no order it can
  // foresee.
  for (; period <= 128 && i + 4 * period <= count; i += 4 * period)
    add_periods(std::integral_constant<int, 4>(), i, period);
  for (; i < count; i += period) {
    add_periods(std::integral_constant<int, 1>(), i, std::min(period, count - i));
  }
  fold_period(sweep, a);
  fold_period(sweep, b);
}

/// Calls f(segment, begin, end) for ranges of at most kRange channels, in parallel: the merging of tiles.
constexpr std::int64_t kRange = 32;
template <typename F>
HWY_INLINE void for_channel_ranges(const ChannelSweep& sweep, F&& f) {
  const std::int64_t ranges = tile_count(sweep.channels, kRange);
  parallel_for(sweep.segments * ranges, 16, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t k = first; k < last; ++k) {
      const std::int64_t c = k % ranges * kRange;
      f(k / ranges, c, std::min(c + kRange, sweep.channels));
    }
  });
}

/// Partial results of all tiles: two rows [C] each.
template <typename T>
struct TilePartials {
  std::int64_t channels;
  Scratch<T> data;
  explicit TilePartials(const ChannelSweep& sweep)
      : channels(sweep.channels), data(static_cast<std::size_t>(2 * sweep.segments * sweep.tiles * sweep.channels)) {}
  T* a(std::int64_t tile) { return data.data() + 2 * tile * channels; }
  T* b(std::int64_t tile) { return a(tile) + channels; }
};

/// a[s,c] = the sum over rows of what f(d, i, m, sum_a, sum_b) adds to its sums, b likewise; b may be null. m points at
/// the lanes' own of the first of `values` [S,C], repeated over the period; those of the next are a period further.
template <typename T, typename F>
HWY_INLINE void channel_sums(const ChannelSweep& sweep, std::initializer_list<const T*> values, T* a, T* b, F&& f) {
  TilePartials<T> partials(sweep);
  const std::int64_t C = sweep.channels, period = sweep.period, rows = static_cast<std::int64_t>(values.size());
  sweep.for_tiles([&](std::int64_t tile, std::int64_t segment, std::int64_t begin, std::int64_t count) HWY_ATTR {
    Scratch<T> scratch(static_cast<std::size_t>((2 + rows) * period));
    T *sum_a = scratch.data(), *sum_b = sum_a + period, *repeated = sum_b + period;
    for (std::int64_t k = 0; k < rows; ++k)
      repeat_channels(sweep, values.begin()[k] + segment * C, repeated + k * period);
    sum_rows(sweep, count, sum_a, sum_b, [&](auto d, std::int64_t i, std::int64_t j, auto& va, auto& vb) HWY_ATTR {
      f(d, begin + i, repeated + j, va, vb);
    });
    std::copy_n(sum_a, C, partials.a(tile));
    std::copy_n(sum_b, C, partials.b(tile));
  });
  for_channel_ranges(sweep, [&](std::int64_t s, std::int64_t c0, std::int64_t c1) {
    double total_a[kRange] = {}, total_b[kRange] = {};
    for (std::int64_t t = s * sweep.tiles; t < (s + 1) * sweep.tiles; ++t) {
      const T *part_a = partials.a(t) + c0, *part_b = partials.b(t) + c0;
      for (std::int64_t c = 0; c < c1 - c0; ++c) total_a[c] += part_a[c], total_b[c] += part_b[c];
    }
    std::copy_n(total_a, c1 - c0, a + s * C + c0);
    if (b) std::copy_n(total_b, c1 - c0, b + s * C + c0);
  });
}

/// Mean and sum of squared differences from it of one tile, in two passes over the cached tile; the second also
/// corrects the rounding of the first mean (Chan, Golub, LeVeque, "Algorithms for computing the sample variance", 1983,
/// eq. 1.7).
template <typename T, typename S>
HWY_INLINE void tile_moments(const ChannelSweep& sweep, const S* x, std::int64_t count, T* mean, T* squares) {
  const std::int64_t C = sweep.channels, period = sweep.period;
  const T n = static_cast<T>(count / C);
  Scratch<T> scratch(static_cast<std::size_t>(3 * period));
  T *a = scratch.data(), *b = a + period, *centre = b + period;
  sum_rows(sweep, count, a, b, [&](auto d, std::int64_t i, std::int64_t, auto& sum, auto&) HWY_ATTR {
    sum = hn::Add(sum, load(d, x + i));
  });
  for (std::int64_t c = 0; c < C; ++c) mean[c] = a[c] / n;
  repeat_channels(sweep, mean, centre);
  sum_rows(sweep, count, a, b, [&](auto d, std::int64_t i, std::int64_t j, auto& sum, auto& sum2) HWY_ATTR {
    const auto v = hn::Sub(load(d, x + i), hn::LoadU(d, centre + j));
    sum = hn::Add(sum, v);
    sum2 = hn::MulAdd(v, v, sum2);
  });
  for (std::int64_t c = 0; c < C; ++c) {
    mean[c] += a[c] / n;
    squares[c] = b[c] - a[c] * a[c] / n;
  }
}

/// mean, var [S,C]: mean and (biased) variance of each channel of a segment. Tiles are merged in their order, in
/// double: R mean = sum of n_t mean_t;  R var = sum of squares_t + n_t (mean_t - mean)^2.
template <typename T, typename S>
HWY_INLINE void channel_moments(const ChannelSweep& sweep, const S* x, T* mean, T* var) {
  TilePartials<T> partials(sweep);
  sweep.for_tiles([&](std::int64_t tile, std::int64_t, std::int64_t begin, std::int64_t count)
                      HWY_ATTR { tile_moments(sweep, x + begin, count, partials.a(tile), partials.b(tile)); });
  const auto rows = static_cast<double>(sweep.rows);
  for_channel_ranges(sweep, [&](std::int64_t s, std::int64_t c0, std::int64_t c1) {
    const std::int64_t t0 = s * sweep.tiles, t1 = t0 + sweep.tiles, n = c1 - c0;
    double centre[kRange] = {}, squares[kRange] = {};
    for (std::int64_t t = t0; t < t1; ++t) {
      const double share = static_cast<double>(sweep.rows_of(t)) / rows;
      for (std::int64_t c = 0; c < n; ++c) centre[c] += share * partials.a(t)[c0 + c];
    }
    for (std::int64_t t = t0; t < t1; ++t) {
      const auto weight = static_cast<double>(sweep.rows_of(t));
      for (std::int64_t c = 0; c < n; ++c) {
        const double off = partials.a(t)[c0 + c] - centre[c];
        squares[c] += partials.b(t)[c0 + c] + weight * off * off;
      }
    }
    for (std::int64_t c = 0; c < n; ++c) {
      mean[s * sweep.channels + c0 + c] = static_cast<T>(centre[c]);
      var[s * sweep.channels + c0 + c] = static_cast<T>(squares[c] / rows);
    }
  });
}

/// y = (x - mean) * scale + shift, with mean and scale [S,C], shift [C].
template <typename T, typename S>
HWY_INLINE void channel_normalise(const ChannelSweep& sweep, const S* x, const T* mean, const T* scale, const T* shift,
                                  S* y) {
  const std::int64_t C = sweep.channels, period = sweep.period;
  sweep.for_tiles([&](std::int64_t, std::int64_t s, std::int64_t begin, std::int64_t count) HWY_ATTR {
    Scratch<T> scratch(static_cast<std::size_t>(3 * period));
    T *m = scratch.data(), *w = m + period, *b = w + period;
    repeat_channels(sweep, mean + s * C, m);
    repeat_channels(sweep, scale + s * C, w);
    repeat_channels(sweep, shift, b);
    for_periods<T>(count, period, [&](auto d, std::int64_t i, std::int64_t j) HWY_ATTR {
      const auto centred = hn::Sub(load(d, x + begin + i), hn::LoadU(d, m + j));
      store(hn::MulAdd(centred, hn::LoadU(d, w + j), hn::LoadU(d, b + j)), d, y + begin + i);
    });
  });
}

/// dx = dy * p + (x - mean) * q + r, all four [S,C]: the gradient through a normalisation whose statistics depend on x.
template <typename T, typename S>
HWY_INLINE void channel_gradient(const ChannelSweep& sweep, const S* dy, const S* x, const T* mean, const T* p,
                                 const T* q, const T* r, S* dx) {
  const std::int64_t C = sweep.channels, period = sweep.period;
  sweep.for_tiles([&](std::int64_t, std::int64_t s, std::int64_t begin, std::int64_t count) HWY_ATTR {
    Scratch<T> scratch(static_cast<std::size_t>(4 * period));
    T *rm = scratch.data(), *rp = rm + period, *rq = rp + period, *rr = rq + period;
    repeat_channels(sweep, mean + s * C, rm);
    repeat_channels(sweep, p + s * C, rp);
    repeat_channels(sweep, q + s * C, rq);
    repeat_channels(sweep, r + s * C, rr);
    for_periods<T>(count, period, [&](auto d, std::int64_t i, std::int64_t j) HWY_ATTR {
      const auto centred = hn::Sub(load(d, x + begin + i), hn::LoadU(d, rm + j));
      const auto rest = hn::MulAdd(centred, hn::LoadU(d, rq + j), hn::LoadU(d, rr + j));
      store(hn::MulAdd(load(d, dy + begin + i), hn::LoadU(d, rp + j), rest), d, dx + begin + i);
    });
  });
}

/// y = x * scale, with scale [S,C].
template <typename T, typename S>
HWY_INLINE void channel_scale(const ChannelSweep& sweep, const S* x, const T* scale, S* y) {
  const std::int64_t C = sweep.channels, period = sweep.period;
  sweep.for_tiles([&](std::int64_t, std::int64_t s, std::int64_t begin, std::int64_t count) HWY_ATTR {
    Scratch<T> w(static_cast<std::size_t>(period));
    repeat_channels(sweep, scale + s * C, w.data());
    for_periods<T>(count, period, [&](auto d, std::int64_t i, std::int64_t j) HWY_ATTR {
      store(hn::Mul(load(d, x + begin + i), hn::LoadU(d, w.data() + j)), d, y + begin + i);
    });
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
