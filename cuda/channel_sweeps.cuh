// Sweeps over x [S,R,C], S segments of R rows: sums, moments and maps for each channel of a segment. BatchNorm is one
// segment; in GroupNorm and global pooling an image is one. A thread keeps to its V neighbouring channels, whose
// numbers stay in registers, and goes down rows. The device's layers/channel_sweeps-inl.h.
#pragma once

#include <algorithm>
#include <bit>
#include <initializer_list>

#include "cuda/common.cuh"
#include "cuda/sums.cuh"

namespace dattn::cuda {

struct ChannelSweep {
  std::int64_t segments, rows, channels;
};

/// Numbers of V neighbouring channels; no alignment is asked of them.
template <int V>
__device__ __forceinline__ Floats<V> channel_numbers(const float* p) {
  Floats<V> x;
#pragma unroll
  for (int v = 0; v < V; ++v) x[v] = p[v];
  return x;
}

/// Calls f.operator()<V>(): V elements of S fill 16 bytes where C and all addresses allow it, and V is 1 where not.
template <typename S, typename F>
void dispatch_width(std::int64_t C, std::initializer_list<const void*> addresses, F&& f) {
  constexpr int kWide = 16 / sizeof(S);
  const bool wide = C % kWide == 0 && std::all_of(addresses.begin(), addresses.end(), [](const void* p) {
                      return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
                    });
  wide ? f.template operator()<kWide>() : f.template operator()<1>();
}

namespace detail {

// How a launch cuts a sweep: a block has `columns` vectors of channels, a power of two, of one part of the rows of a
// segment.
struct SweepCut {
  std::int64_t rows, channels, part, parts;
  int columns, column_blocks;
  unsigned blocks;

  // `rows_each` is how many rows a thread takes at least, `most_parts` bounds the parts of a segment.
  SweepCut(const ChannelSweep& sweep, int V, std::int64_t rows_each, std::int64_t most_parts)
      : rows(sweep.rows), channels(sweep.channels) {
    const auto vectors = static_cast<unsigned>(std::max<std::int64_t>(1, channels / V));
    columns = static_cast<int>(std::min(32u, std::bit_ceil(vectors)));
    column_blocks = static_cast<int>((vectors + static_cast<unsigned>(columns) - 1) / static_cast<unsigned>(columns));
    const std::int64_t least = rows_each * (kThreads / columns);
    part = std::max(least, (rows + most_parts - 1) / most_parts);
    parts = std::max<std::int64_t>(1, (rows + part - 1) / part);
    blocks = channels == 0 ? 0 : static_cast<unsigned>(sweep.segments * column_blocks * parts);
  }
};

// The place of a thread in it.
template <int V>
struct SweepPlace {
  std::int64_t segment, part, channel, first, begin, end;  // channel is the first of its V, `first` its first row
  int x, y, step;
  bool inside;

  __device__ explicit SweepPlace(const SweepCut& cut) {
    x = static_cast<int>(threadIdx.x) & (cut.columns - 1), y = static_cast<int>(threadIdx.x) / cut.columns;
    step = kThreads / cut.columns;
    part = blockIdx.x % cut.parts;
    const std::int64_t rest = blockIdx.x / cut.parts;
    segment = rest / cut.column_blocks;
    channel = (rest % cut.column_blocks * cut.columns + x) * V;
    inside = channel < cut.channels;
    begin = part * cut.part;
    first = begin + y;
    end = begin + cut.part < cut.rows ? begin + cut.part : cut.rows;
  }
  __device__ std::int64_t element(const SweepCut& cut, std::int64_t row) const {
    return (segment * cut.rows + row) * cut.channels + channel;
  }
  // The number of rows of the thread at `other` instead of y.
  __device__ int rows_of(int other) const {
    const std::int64_t left = end - begin - other;
    return left <= 0 ? 0 : static_cast<int>((left + step - 1) / step);
  }
};

template <int V, typename F>
__global__ void channel_map_kernel(SweepCut cut, F f) {
  const SweepPlace<V> at(cut);
  if (!at.inside) return;
  const auto own = f.channels(at.segment * cut.channels + at.channel, at.channel);
  for (std::int64_t row = at.first; row < at.end; row += at.step) f(own, at.element(cut, row));
}

// partial [S, parts, N, C]: sums over the rows of each part, added in the order of the threads.
template <int V, int N, typename F>
__global__ void channel_parts_kernel(SweepCut cut, F f, float* partial) {
  DATTN_SHARED(float, sums, kThreads* N* V);
  const SweepPlace<V> at(cut);
  Floats<V> sum[N] = {};
  if (at.inside) {
    const auto own = f.channels(at.segment * cut.channels + at.channel, at.channel);
#pragma unroll 4
    for (std::int64_t row = at.first; row < at.end; row += at.step) f(own, at.element(cut, row), sum);
  }
  const int width = cut.columns * V;
#pragma unroll
  for (int k = 0; k < N; ++k) {
#pragma unroll
    for (int v = 0; v < V; ++v) sums[(at.y * N + k) * width + at.x * V + v] = sum[k][v];
  }
  __syncthreads();
  const std::int64_t first = at.channel - at.x * V;
  for (int t = static_cast<int>(threadIdx.x); t < N * width; t += kThreads) {
    const int k = t / width, column = t % width;
    if (first + column >= cut.channels) continue;
    float total = 0;
    for (int y = 0; y < at.step; ++y) total += sums[(y * N + k) * width + column];
    partial[((at.segment * cut.parts + at.part) * N + k) * cut.channels + first + column] = total;
  }
}

// A warp adds the parts of one channel, in double.
template <int N, typename G>
struct AddParts {
  const float* partial;
  std::int64_t channels, parts;
  G g;
  __device__ void operator()(const WarpTeam& team) const {
    const float* first = partial + team.row() / channels * parts * N * channels + team.row() % channels;
    Floats<N> total;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      total[k] = static_cast<float>(
          team.sum_of(parts, [&](std::int64_t p) { return static_cast<double>(first[(p * N + k) * channels]); }));
    }
    if (team.index() == 0) g(team.row(), total);
  }
};

// partial [S, parts, 2, C]: mean and sum of squared differences from it, of each part. A thread subtracts its first
// row from all its rows, so that a mean that is large beside the deviation costs nothing; threads are merged by n mean
// = sum of n_y mean_y and squares = sum of squares_y + n_y (mean_y - mean)^2 (Chan, Golub, LeVeque 1983).
template <int V, typename S>
__global__ void moment_parts_kernel(SweepCut cut, const S* x, float* partial) {
  DATTN_SHARED(float, means, kThreads* V);
  DATTN_SHARED(float, squares, kThreads* V);
  const SweepPlace<V> at(cut);
  Floats<V> shift{}, sum{}, sum2{};
  if (at.inside && at.first < at.end) shift = load<V>(x + at.element(cut, at.first));
  if (at.inside) {
#pragma unroll 4
    for (std::int64_t row = at.first + at.step; row < at.end; row += at.step) {
      const Floats<V> here = load<V>(x + at.element(cut, row));
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const float off = here[v] - shift[v];
        sum[v] += off;
        sum2[v] = fmaf(off, off, sum2[v]);
      }
    }
  }
  const int width = cut.columns * V;
  const float share = 1.0f / static_cast<float>(max(1, at.rows_of(at.y)));
#pragma unroll
  for (int v = 0; v < V; ++v) {
    means[at.y * width + at.x * V + v] = shift[v] + sum[v] * share;
    squares[at.y * width + at.x * V + v] = sum2[v] - sum[v] * sum[v] * share;
  }
  __syncthreads();
  const std::int64_t first = at.channel - at.x * V;
  for (int column = static_cast<int>(threadIdx.x); column < width; column += kThreads) {
    if (first + column >= cut.channels) continue;
    const float origin = means[column];
    float off_mean = 0, total = 0;
    for (int y = 0; y < at.step; ++y)
      off_mean += static_cast<float>(at.rows_of(y)) * (means[y * width + column] - origin);
    off_mean /= static_cast<float>(at.end - at.begin);
    for (int y = 0; y < at.step; ++y) {
      const float off = means[y * width + column] - origin - off_mean;
      total += squares[y * width + column] + static_cast<float>(at.rows_of(y)) * off * off;
    }
    float* to = partial + (at.segment * cut.parts + at.part) * 2 * cut.channels + first + column;
    to[0] = origin + off_mean;
    to[cut.channels] = total;
  }
}

// A warp merges the parts of one channel likewise, in double.
struct MergeMoments {
  const float* partial;
  std::int64_t channels, rows, part, parts;
  float *mean, *var;
  __device__ void operator()(const WarpTeam& team) const {
    const float* first = partial + team.row() / channels * parts * 2 * channels + team.row() % channels;
    double centre = 0, squares = 0;
    for (std::int64_t p = team.index(); p < parts; p += WarpTeam::kSize)
      centre += static_cast<double>(rows_of(p)) * first[p * 2 * channels];
    centre = warp_sum(centre) / static_cast<double>(rows);
    for (std::int64_t p = team.index(); p < parts; p += WarpTeam::kSize) {
      const double off = first[p * 2 * channels] - centre;
      squares += first[(p * 2 + 1) * channels] + static_cast<double>(rows_of(p)) * off * off;
    }
    squares = warp_sum(squares);
    if (team.index() != 0) return;
    mean[team.row()] = static_cast<float>(centre);
    var[team.row()] = static_cast<float>(squares / static_cast<double>(rows));
  }
  __device__ std::int64_t rows_of(std::int64_t p) const { return p * part + part < rows ? part : rows - p * part; }
};

constexpr std::int64_t kSumRows = 4, kMapRows = 8, kSumBlocks = 1024, kMostParts = 256;

inline SweepCut cut_for_sums(const ChannelSweep& sweep, int V) {
  const SweepCut whole(sweep, V, sweep.rows + 1, 1);
  const std::int64_t parts = kSumBlocks / std::max(1u, whole.blocks);
  return {sweep, V, kSumRows, std::clamp<std::int64_t>(parts, 1, kMostParts)};
}

}  // namespace detail

/// Calls f(own, i) on the device for elements i .. i + V - 1 of every row; own = f.channels(k, c) are the numbers of
/// channels c .. c + V - 1, k = s C + c their place among those of all segments. F is a struct of plain members.
template <int V, typename F>
void channel_map(const char* name, const ChannelSweep& sweep, const F& f) {
  const detail::SweepCut cut(sweep, V, detail::kMapRows, std::int64_t{1} << 31);
  launch(name, detail::channel_map_kernel<V, F>, {cut.blocks, kThreads}, cut, f);
}

/// Calls g(s C + c, sums) on the device for every channel, where f(own, i, sum) has added to the N sums of its
/// elements, `Floats<V> (&sum)[N]`; f is else as above. Sums are made in a fixed order.
template <int V, int N, typename F, typename G>
void channel_sums(const char* name, const ChannelSweep& sweep, const F& f, const G& g) {
  const detail::SweepCut cut = detail::cut_for_sums(sweep, V);
  const std::int64_t all = sweep.segments * sweep.channels;
  Scratch<float> partial(cut.parts * N * all);
  launch(name, detail::channel_parts_kernel<V, N, F>, {cut.blocks, kThreads}, cut, f, partial.data());
  for_each_warp(name, all, detail::AddParts<N, G>{partial.data(), sweep.channels, cut.parts, g});
}

/// mean, var [S,C]: mean and (biased) variance of each channel of a segment of at least one row.
template <typename S>
void channel_moments(const char* name, const ChannelSweep& sweep, const S* x, float* mean, float* var) {
  dispatch_width<S>(sweep.channels, {x}, [&]<int V>() {
    const detail::SweepCut cut = detail::cut_for_sums(sweep, V);
    const std::int64_t all = sweep.segments * sweep.channels;
    Scratch<float> partial(cut.parts * 2 * all);
    launch(name, detail::moment_parts_kernel<V, S>, {cut.blocks, kThreads}, cut, x, partial.data());
    for_each_warp(name, all,
                  detail::MergeMoments{partial.data(), sweep.channels, sweep.rows, cut.part, cut.parts, mean, var});
  });
}

}  // namespace dattn::cuda
