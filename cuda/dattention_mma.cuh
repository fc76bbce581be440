// Products of DAttention's bfloat16 kernels on tensor cores. A warp owns 16 rows, queries or samples, whose vectors lie
// in registers as fragments; the other side lies in shared memory and is taken 16 rows at a time. Scores and gradients
// are float; weights and gradients of scores are rounded to bfloat16 where they become factors of the next product.
//
// Of a product's 16 x 8 results a thread holds rows own_row() and own_row() + 8, columns own_column() and the next.
#pragma once

#include "cuda/dattention_attend.cuh"

namespace dattn::cuda {

constexpr int kMmaWarps = 4, kMmaThreads = kMmaWarps * kWarpThreads;
constexpr int kMmaRows = 16 * kMmaWarps;  // of a block

__device__ __forceinline__ int own_row() { return lane_index() / 4; }
__device__ __forceinline__ int own_column() { return lane_index() % 4 * 2; }

/// Rows of kChannels channels in shared memory; heads are filled up with zeros. Rows are as far apart as keeps the
/// eight rows of a matrix in different banks.
template <int kChannels>
struct MmaRows {
  static_assert(kChannels == 8 || kChannels % 16 == 0);
  static constexpr int kStride = kChannels == 8 ? 8 : kChannels + 8;
  static constexpr int kSteps = (kChannels + 15) / 16;  // of products over channels
  static constexpr int kOut = kChannels / 8;            // eights of channels of a result

  /// 16 rows, the left factor of products over channels.
  struct Left {
    std::uint32_t a[kSteps][4];
  };
  /// Sums of 16 rows over the other side, in eights of channels.
  struct Sums {
    float d[kOut][4];
  };

  __device__ static Left left(Shared<const bfloat16> rows) {
    Left x;
    if constexpr (kChannels == 8) {
      std::uint32_t half[2];
      load_matrices(half, rows + lane_index() % 16 * kStride);
      x.a[0][0] = half[0], x.a[0][1] = half[1], x.a[0][2] = 0, x.a[0][3] = 0;
    } else {
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
        load_matrices(x.a[step], rows + (lane_index() % 16 * kStride + 16 * step + lane_index() / 16 * 8));
    }
    return x;
  }

  /// s [16 rows, 16 of the other side] = left rows^T over channels, as two products of eight columns.
  __device__ static void products(const Left& x, Shared<const bfloat16> rows, float (&s)[2][4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[0][i] = 0, s[1][i] = 0;
    if constexpr (kChannels == 8) {
      std::uint32_t half[2];
      load_matrices(half, rows + lane_index() % 16 * kStride);
      const std::uint32_t b0[2] = {half[0], 0}, b1[2] = {half[1], 0};
      mma_bfloat16(s[0], x.a[0], b0);
      mma_bfloat16(s[1], x.a[0], b1);
    } else {
      const int row = lane_index() / 16 * 8 + lane_index() % 8, column = lane_index() / 8 % 2 * 8;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        std::uint32_t b[4];
        load_matrices(b, rows + (row * kStride + 16 * step + column));
        const std::uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
        mma_bfloat16(s[0], x.a[step], b0);
        mma_bfloat16(s[1], x.a[step], b1);
      }
    }
  }

  /// sums += w rows, where w holds the weights of 16 rows of the other side.
  __device__ static void accumulate(const float (&w)[2][4], Shared<const bfloat16> rows, Sums& sums) {
    const std::uint32_t a[4] = {bfloat16_pair(w[0][0], w[0][1]), bfloat16_pair(w[0][2], w[0][3]),
                                bfloat16_pair(w[1][0], w[1][1]), bfloat16_pair(w[1][2], w[1][3])};
    if constexpr (kChannels == 8) {
      std::uint32_t b[2];
      load_matrices_transposed(b, rows + lane_index() % 16 * kStride);
      mma_bfloat16(sums.d[0], a, b);
    } else {
#pragma unroll
      for (int out = 0; out < kOut; out += 2) {
        std::uint32_t b[4];
        load_matrices_transposed(b, rows + (lane_index() % 16 * kStride + 8 * out + lane_index() / 16 * 8));
        const std::uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
        mma_bfloat16(sums.d[out], a, b0);
        mma_bfloat16(sums.d[out + 1], a, b1);
      }
    }
  }

  /// Copies `count` rows of one head, `from` being the first, to shared memory; zeros beyond, up to `rows`.
  __device__ static void stage(const AttendSizes& a, const bfloat16* from, int count, int rows, Shared<bfloat16> to) {
    for (int i = static_cast<int>(threadIdx.x); i < rows * kOut; i += static_cast<int>(blockDim.x)) {
      const int row = i / kOut, c = i % kOut * 8;
      const bfloat16* at = from + static_cast<std::int64_t>(row) * a.channels + c;
      detail::Pack<bfloat16, 8> eight{};
      if (row < count && a.eights) {
        if (c < a.head_channels) eight = *reinterpret_cast<const detail::Pack<bfloat16, 8>*>(at);
      } else if (row < count) {
#pragma unroll
        for (int v = 0; v < 8; ++v) {
          if (c + v < a.head_channels) eight.element[v] = at[v];
        }
      }
      shared_cast<detail::Pack<bfloat16, 8>>(to + (row * kStride + c))[0] = eight;
    }
  }

  /// Writes a thread's part of one row, r = 0 or 8 below own_row(), times a factor.
  template <typename T>
  __device__ static void store_row(const AttendSizes& a, const Sums& sums, int r, float factor, T* row) {
#pragma unroll
    for (int out = 0; out < kOut; ++out) {
      const int c = 8 * out + own_column();
      const float low = factor * sums.d[out][r / 4], high = factor * sums.d[out][r / 4 + 1];
      if (a.fours) {
        if (c < a.head_channels) store<2>(row + c, Floats<2>{{low, high}});
      } else {
        if (c < a.head_channels) store(row + c, low);
        if (c + 1 < a.head_channels) store(row + c + 1, high);
      }
    }
  }
};

/// Calls f.operator()<kChannels>() with the channels that heads are filled up to.
template <typename F>
void dispatch_mma_channels(int head_channels, F&& f) {
  if (head_channels <= 8) return f.template operator()<8>();
  if (head_channels <= 16) return f.template operator()<16>();
  if (head_channels <= 32) return f.template operator()<32>();
  f.template operator()<64>();
}

/// Sums and maxima of the four threads that share a row.
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(kFullWarp, x, 1);
  return x + __shfl_xor_sync(kFullWarp, x, 2);
}
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, 1));
  return fmaxf(x, __shfl_xor_sync(kFullWarp, x, 2));
}

}  // namespace dattn::cuda
