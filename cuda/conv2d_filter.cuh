// The product of the filter gradient: dw [O, Kh Kw C] = dy^T [O, pixels] gathered x [pixels, Kh Kw C], for each group.
// Pixels are split into parts whose sums go to scratch memory, and a second kernel adds them in order.
#pragma once

#include "cuda/conv2d_kernels.cuh"
#include "cuda/product_tiles.cuh"

namespace dattn::cuda {

template <typename S>
struct ConvolutionFilter {
  ConvolutionShape shape;  ///< sources are x, targets dy, whose C is a multiple of a chunk as well
  FastDivide by_image, by_row;
  int column_tiles, part;  ///< pixels of a part, a multiple of kDepth
  const S *x, *dy;
  float* partial;  ///< [parts, groups target.C, depth]

  explicit ConvolutionFilter(const ConvolutionShape& s)
      : shape(s), by_image(s.target.H * s.target.W), by_row(s.target.W) {}
};

namespace detail {

// How the block's threads copy a tile [kDepth pixels, kWidth]: a thread has one chunk of some rows.
template <typename S, int kWidth>
struct PixelTile {
  static constexpr int kChunks = kWidth / kChunk<S>, kRowsAtOnce = kThreads / kChunks, kCount = kDepth<S> / kRowsAtOnce;
  static_assert(kDepth<S> % kRowsAtOnce == 0);

  __device__ static int chunk() { return static_cast<int>(threadIdx.x) % kChunks; }
  __device__ static int row(int i) { return static_cast<int>(threadIdx.x) / kChunks + i * kRowsAtOnce; }
};

// Channels [first, first + kWidth) of the pixels of dy from `pixel` on.
template <int kWidth, typename S>
__device__ __forceinline__ void copy_gradient(const ConvolutionFilter<S>& f, int group, int first, int pixel, int end,
                                              Shared<S> to) {
  using Part = PixelTile<S, kWidth>;
  const int channel = first + Part::chunk() * kChunk<S>;
#pragma unroll
  for (int i = 0; i < Part::kCount; ++i) {
    const int p = pixel + Part::row(i);
    const bool valid = p < end && channel < f.shape.target.C;
    const std::int64_t from = static_cast<std::int64_t>(p) * f.shape.target.all_channels();
    copy_async<16>(to + chunk_place<S, Part::kChunks>(Part::row(i), Part::chunk()),
                   valid ? f.dy + from + group * f.shape.target.C + channel : f.dy, valid);
  }
}

// What the taps and channels [first, first + kWidth) of a filter meet at those pixels.
template <int kWidth, typename S>
struct GatheredPixels {
  using Part = PixelTile<S, kWidth>;
  int kh, kw;
  bool valid;
  const S* channels;

  __device__ __forceinline__ GatheredPixels(const ConvolutionFilter<S>& f, int group, int first) {
    const ConvolutionShape& s = f.shape;
    const int k = first + Part::chunk() * kChunk<S>, tap = s.by_channels(k);
    kh = s.by_kernel_width(tap), kw = tap - kh * s.kernel_width;
    valid = k < s.depth;
    channels = f.x + group * s.source.C + (k - tap * s.source.C);
  }

  __device__ __forceinline__ void copy(const ConvolutionFilter<S>& f, int pixel, int end, Shared<S> to) const {
    const ConvolutionShape& s = f.shape;
#pragma unroll
    for (int i = 0; i < Part::kCount; ++i) {
      const int p = pixel + Part::row(i), n = f.by_image(p), rest = p - n * s.target.H * s.target.W, h = f.by_row(rest),
                w = rest - h * s.target.W;
      const SourcePixel from =
          s.find(n * s.source.H, h * s.taps.step + s.taps.offset, w * s.taps.step + s.taps.offset, kh, kw);
      const bool inside = from.inside && valid && p < end;
      copy_async<16>(to + chunk_place<S, Part::kChunks>(Part::row(i), Part::chunk()),
                     inside ? channels + from.index * s.source.all_channels() : f.x, inside);
    }
  }
};

}  // namespace detail

template <typename Tile>
__global__ void __launch_bounds__(kThreads, 2) conv2d_filter_kernel(ConvolutionFilter<typename Tile::Storage> f) {
  using S = typename Tile::Storage;
  DynamicShared shared;
  const Shared<S> a = shared.take<S>(kProductElements<Tile>), b = a + kStages * Tile::kRows * kDepth<S>;
  const int tile = static_cast<int>(blockIdx.x) / f.column_tiles, group = static_cast<int>(blockIdx.z);
  const int row = tile * Tile::kRows, column = (static_cast<int>(blockIdx.x) - tile * f.column_tiles) * Tile::kColumns;
  const int begin = static_cast<int>(blockIdx.y) * f.part, end = min(begin + f.part, f.shape.target.pixels());
  const detail::GatheredPixels<Tile::kColumns, S> gathered(f, group, column);
  Tile sums(nullptr, 0);
  run_pipeline((end - begin + kDepth<S> - 1) / kDepth<S>,
               [&](int step, int stage) {
                 const int pixel = begin + step * kDepth<S>;
                 detail::copy_gradient<Tile::kRows>(f, group, row, pixel, end, a + stage * Tile::kRows * kDepth<S>);
                 gathered.copy(f, pixel, end, b + stage * Tile::kColumns * kDepth<S>);
               },
               [&](int stage) {
                 sums.multiply_transposed(a + stage * Tile::kRows * kDepth<S>, b + stage * Tile::kColumns * kDepth<S>);
               });
  const std::int64_t filters = f.shape.target.all_channels(),
                     first = blockIdx.y * filters + group * f.shape.target.C + row;
  sums.store_sums({f.partial + first * f.shape.depth + column, nullptr, f.shape.target.C - row, f.shape.depth - column,
                   f.shape.depth, true});
}

}  // namespace dattn::cuda
