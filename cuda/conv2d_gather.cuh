// The product of forward and of the data gradient: target [pixels, Ct] = gathered source [pixels, depth] filters^T
// [depth, Ct], for each group, with a bias, and with maxima of 2x2 windows in the same kernel where wanted.
#pragma once

#include "cuda/conv2d_kernels.cuh"
#include "cuda/product_tiles.cuh"

namespace dattn::cuda {

template <typename S>
struct ConvolutionGather {
  ConvolutionShape shape;
  int units, unit_rows, unit_columns;  ///< pixels of the target, or windows of 2x2 of them: how many, and of an image
  FastDivide by_image, by_row;         ///< a unit's number by those of an image and of a row
  int column_tiles;
  const S *source, *filters;  ///< filters [groups Ct, depth]
  const float* bias;          ///< [groups Ct], or null
  S* target;
  std::uint8_t* taps;  ///< of maxima, or null
  bool wide;

  ConvolutionGather(const ConvolutionShape& s, bool pool)
      : shape(s),
        units(s.target.N * (pool ? (s.target.H / 2) * (s.target.W / 2) : s.target.H * s.target.W)),
        unit_rows(pool ? s.target.H / 2 : s.target.H),
        unit_columns(pool ? s.target.W / 2 : s.target.W),
        by_image(unit_rows * unit_columns),
        by_row(unit_columns) {}
};

namespace detail {

constexpr int kCopyRows = kThreads / kDepthChunks;  // rows of a tile that the block's threads copy at once

// The rows of the gathered tile that a thread copies: corners of their targets. Rows of windows lie so that a thread of
// the tile sums all four of one window: row r is tap r / T mod 4 of window r / 4T T + r mod T, T = kTapRows.
template <typename Tile, bool kPool>
struct GatheredRows {
  static constexpr int kCount = Tile::kRows / kCopyRows;
  int image[kCount], row[kCount], column[kCount];

  template <typename S>
  __device__ __forceinline__ GatheredRows(const ConvolutionGather<S>& g, int first) {
    const ConvolutionShape& s = g.shape;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int r = first + static_cast<int>(threadIdx.x) / kDepthChunks + i * kCopyRows;
      constexpr int T = Tile::kTapRows;
      const int unit = kPool ? r / (4 * T) * T + r % T : r, tap = kPool ? r / T % 4 : 0;
      const int n = g.by_image(unit), rest = unit - n * g.unit_rows * g.unit_columns, i_unit = g.by_row(rest),
                j_unit = rest - i_unit * g.unit_columns;
      const int h = kPool ? 2 * i_unit + tap / 2 : i_unit, w = kPool ? 2 * j_unit + tap % 2 : j_unit;
      image[i] = n * s.source.H;
      // A row far outside finds no source.
      row[i] = unit < g.units ? h * s.taps.step + s.taps.offset : -(1 << 30);
      column[i] = w * s.taps.step + s.taps.offset;
    }
  }

  // Begins the copies of chunk `chunk` of a step, term k of the sums.
  template <typename S>
  __device__ __forceinline__ void copy(const ConvolutionGather<S>& g, int group, int k, int chunk, Shared<S> to) const {
    const ConvolutionShape& s = g.shape;
    const int tap = s.by_channels(k), kh = s.by_kernel_width(tap), kw = tap - kh * s.kernel_width;
    const S* channels = g.source + group * s.source.C + (k - tap * s.source.C);
    const int first = static_cast<int>(threadIdx.x) / kDepthChunks;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const SourcePixel from = s.find(image[i], row[i], column[i], kh, kw);
      const bool valid = from.inside && k < s.depth;
      copy_async<16>(to + chunk_place<S, kDepthChunks>(first + i * kCopyRows, chunk),
                     valid ? channels + from.index * s.source.all_channels() : g.source, valid);
    }
  }
};

// The same of the filters.
template <typename Tile, typename S>
__device__ __forceinline__ void copy_filters(const ConvolutionGather<S>& g, int group, int first_filter, int k,
                                             int chunk, Shared<S> to) {
  const ConvolutionShape& s = g.shape;
#pragma unroll
  for (int i = 0; i < Tile::kColumns / kCopyRows; ++i) {
    const int row = static_cast<int>(threadIdx.x) / kDepthChunks + i * kCopyRows;
    const bool valid = first_filter + row < s.target.C && k < s.depth;
    const std::int64_t filter = group * s.target.C + first_filter + row;
    copy_async<16>(to + chunk_place<S, kDepthChunks>(row, chunk), valid ? g.filters + filter * s.depth + k : g.filters,
                   valid);
  }
}

}  // namespace detail

template <typename Tile, bool kPool>
__global__ void __launch_bounds__(kThreads, 2) conv2d_gather_kernel(ConvolutionGather<typename Tile::Storage> g) {
  using S = typename Tile::Storage;
  constexpr int kUnits = kPool ? Tile::kRows / 4 : Tile::kRows;
  DynamicShared shared;
  const Shared<S> a = shared.take<S>(kProductElements<Tile>), b = a + kStages * Tile::kRows * kDepth<S>;
  const int tile = static_cast<int>(blockIdx.x) / g.column_tiles, group = static_cast<int>(blockIdx.y);
  const int column = (static_cast<int>(blockIdx.x) - tile * g.column_tiles) * Tile::kColumns;
  const int columns = g.shape.target.C - column, first_channel = group * g.shape.target.C + column;
  const detail::GatheredRows<Tile, kPool> rows(g, tile * Tile::kRows);
  Tile sums(g.bias != nullptr ? g.bias + first_channel : nullptr, columns);
  const int chunk = static_cast<int>(threadIdx.x) % kDepthChunks;
  run_pipeline(
      (g.shape.depth + kDepth<S> - 1) / kDepth<S>,
      [&](int step, int stage) {
        const int k = step * kDepth<S> + chunk * kChunk<S>;
        rows.copy(g, group, k, chunk, a + stage * Tile::kRows * kDepth<S>);
        detail::copy_filters<Tile>(g, group, column, k, chunk, b + stage * Tile::kColumns * kDepth<S>);
      },
      [&](int stage) { sums.multiply(a + stage * Tile::kRows * kDepth<S>, b + stage * Tile::kColumns * kDepth<S>); });
  const std::int64_t pitch = g.shape.target.all_channels(), to = tile * kUnits * pitch + first_channel;
  const TileOutput<S> out{g.target + to, kPool ? g.taps + to : nullptr, g.units - tile * kUnits, columns, pitch,
                          g.wide};
  if constexpr (kPool) {
    sums.store_maxima(out);
  } else {
    sums.store_rows(out, a);
  }
}

}  // namespace dattn::cuda
