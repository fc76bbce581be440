// Products of two tiles in shared memory, summed in the registers of a block of kThreads threads: on tensor cores for
// bfloat16, and on float units for either type. Tiles hold chunks of 16 bytes, filled by asynchronous copies some steps
// ahead.
#pragma once

#include "cuda/common.cuh"
#include "cuda/maxima.cuh"

namespace dattn::cuda {

/// Elements of a chunk.
template <typename S>
constexpr int kChunk = 16 / static_cast<int>(sizeof(S));

/// Terms of the sums that one step multiplies: a row of them has kDepthChunks chunks.
constexpr int kDepthChunks = 4;
template <typename S>
constexpr int kDepth = kDepthChunks* kChunk<S>;

/// The element at which a chunk begins, in a tile whose rows have kChunks chunks. They are permuted so that one chunk
/// of eight neighbouring rows, which a warp reads at once, lies in different banks.
template <typename S, int kChunks>
__device__ __forceinline__ int chunk_place(int row, int chunk) {
  static_assert(kChunks == 4 || kChunks % 8 == 0);
  return (row * kChunks + (chunk ^ (kChunks == 4 ? row >> 1 & 3 : row & 7))) * kChunk<S>;
}

/// Where a block writes its tile: `rows` and `columns` of it exist, rows are `pitch` elements apart.
template <typename S>
struct TileOutput {
  S* to;
  std::uint8_t* taps;  ///< of maxima
  int rows, columns;
  std::int64_t pitch;
  bool wide;  ///< chunks are whole and aligned
};

/// Elements of shared memory of a product: the stages of both sides, through which the tile goes out at last.
constexpr int kStages = 4;
template <typename Tile>
constexpr int kProductElements = kStages*(Tile::kRows + Tile::kColumns) * kDepth<typename Tile::Storage>;

/// kStages steps are under way: `fetch(step, stage)` begins the copies of a step, `multiply(stage)` uses them. When it
/// returns, the tiles are free.
template <typename Fetch, typename Multiply>
__device__ __forceinline__ void run_pipeline(int steps, Fetch&& fetch, Multiply&& multiply) {
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) fetch(step, step);
    copy_async_commit();
  }
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<kStages - 2>();
    __syncthreads();  // this step's copies are there, and all have used the stage that the next copies fill
    const int ahead = step + kStages - 1;
    if (ahead < steps) fetch(ahead, ahead % kStages);
    copy_async_commit();
    multiply(step % kStages);
  }
  __syncthreads();
}

// --- tensor cores ---

/// kM x kN sums. A warp has kWarpM x kWarpN of them, in blocks of 16 x 8 as mma_bfloat16 gives them: rows lane / 4 and
/// 8 more, columns 2 (lane % 4) and one more.
template <int kM, int kN>
struct MmaTile {
  using Storage = bfloat16;
  static constexpr int kRows = kM, kColumns = kN;
  static constexpr int kWarpsM = kM == 128 && kN == 128 ? 2 : kM / 32, kWarpsN = kThreads / kWarpThreads / kWarpsM;
  static constexpr int kWarpM = kM / kWarpsM, kWarpN = kN / kWarpsN, kBlocksM = kWarpM / 16, kBlocksN = kWarpN / 8;
  /// Rows between those of one window of four that a thread holds for maxima.
  static constexpr int kTapRows = 8;
  static constexpr int kStagedPitch = kN + 8;  // rows of the tile on its way out, in different banks

  float sum[kBlocksM][kBlocksN][4];
  int lane, row0, column0;  // the thread's first

  /// Sums begin at the columns' bias, or at 0 where it is null.
  __device__ __forceinline__ MmaTile(const float* bias, int columns) {
    lane = lane_index();
    row0 = warp_index() / kWarpsN * kWarpM, column0 = warp_index() % kWarpsN * kWarpN;
#pragma unroll
    for (int j = 0; j < kBlocksN; ++j) {
#pragma unroll
      for (int v = 0; v < 2; ++v) {
        const int c = column0 + 8 * j + lane % 4 * 2 + v;
        const float first = bias != nullptr && c < columns ? bias[c] : 0.0f;
#pragma unroll
        for (int i = 0; i < kBlocksM; ++i) sum[i][j][v] = sum[i][j][2 + v] = first;
      }
    }
  }

  /// a [kM, depth], b [kN, depth]: adds a b^T.
  __device__ __forceinline__ void multiply(Shared<bfloat16> a, Shared<bfloat16> b) {
#pragma unroll
    for (int k = 0; k < kDepthChunks; k += 2) {
      std::uint32_t fa[kBlocksM][4], fb[kBlocksN][2];
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i)
        load_matrices(fa[i], a + chunk_place<bfloat16, kDepthChunks>(row0 + 16 * i + lane % 16, k + lane / 16));
#pragma unroll
      for (int j = 0; j < kBlocksN; j += 2) {
        std::uint32_t two[4];
        load_matrices(
            two, b + chunk_place<bfloat16, kDepthChunks>(column0 + 8 * j + lane / 16 * 8 + lane % 8, k + lane / 8 % 2));
        fb[j][0] = two[0], fb[j][1] = two[1], fb[j + 1][0] = two[2], fb[j + 1][1] = two[3];
      }
      add_products(fa, fb);
    }
  }

  /// a [depth, kM], b [depth, kN]: adds a^T b.
  __device__ __forceinline__ void multiply_transposed(Shared<bfloat16> a, Shared<bfloat16> b) {
#pragma unroll
    for (int k = 0; k < kDepth<bfloat16>; k += 16) {
      std::uint32_t fa[kBlocksM][4], fb[kBlocksN][2];
#pragma unroll
      for (int i = 0; i < kBlocksM; ++i) {
        load_matrices_transposed(
            fa[i], a + chunk_place<bfloat16, kM / 8>(k + lane / 16 * 8 + lane % 8, row0 / 8 + 2 * i + lane / 8 % 2));
      }
#pragma unroll
      for (int j = 0; j < kBlocksN; j += 2) {
        std::uint32_t two[4];
        load_matrices_transposed(two, b + chunk_place<bfloat16, kN / 8>(k + lane % 16, column0 / 8 + j + lane / 16));
        fb[j][0] = two[0], fb[j][1] = two[1], fb[j + 1][0] = two[2], fb[j + 1][1] = two[3];
      }
      add_products(fa, fb);
    }
  }

  /// Writes the sums, through shared memory so that rows go out in chunks.
  __device__ __forceinline__ void store_rows(const TileOutput<bfloat16>& out, Shared<bfloat16> staged) const {
    static_assert(kM * kStagedPitch <= kProductElements<MmaTile>);
    each_pair([&](int row, int column, float low, float high) {
      shared_cast<std::uint32_t>(staged + (row * kStagedPitch + column))[0] = bfloat16_pair(low, high);
    });
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kM * kN / 8; i += kThreads) {
      const int row = i / (kN / 8), column = i % (kN / 8) * 8;
      if (row >= out.rows || column >= out.columns) continue;
      bfloat16* to = out.to + row * out.pitch + column;
      const Shared<bfloat16> from = staged + (row * kStagedPitch + column);
      if (out.wide) {
        const uint4 chunk = shared_cast<uint4>(from)[0];
        *reinterpret_cast<uint4*>(to) = chunk;
      } else {
        for (int v = 0; v < min(8, out.columns - column); ++v) to[v] = from[v];
      }
    }
  }

  /// Writes the maximum of every four rows r, r + 8, r + 16, r + 24 and which it was.
  __device__ __forceinline__ void store_maxima(const TileOutput<bfloat16>& out) const {
#pragma unroll
    for (int i = 0; i < kBlocksM; i += 2) {
      const int row = (row0 + 16 * i) / 4 + lane / 4;
#pragma unroll
      for (int j = 0; j < kBlocksN; ++j) {
#pragma unroll
        for (int v = 0; v < 2; ++v) {
          const int column = column0 + 8 * j + lane % 4 * 2 + v;
          float best = -INFINITY;
          int place = 0;
#pragma unroll
          for (int tap = 0; tap < 4; ++tap) keep_larger(sum[i + tap / 2][j][tap % 2 * 2 + v], tap, best, place);
          if (row >= out.rows || column >= out.columns) continue;
          store(out.to + row * out.pitch + column, best);
          out.taps[row * out.pitch + column] = static_cast<std::uint8_t>(place);
        }
      }
    }
  }

  /// Writes the sums as floats; rows and columns that exist are even in number, or one more is free.
  __device__ __forceinline__ void store_sums(const TileOutput<float>& out) const {
    each_pair([&](int row, int column, float low, float high) {
      if (row < out.rows && column < out.columns) store<2>(out.to + row * out.pitch + column, Floats<2>{{low, high}});
    });
  }

 private:
  __device__ __forceinline__ void add_products(const std::uint32_t (&fa)[kBlocksM][4],
                                               const std::uint32_t (&fb)[kBlocksN][2]) {
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i) {
#pragma unroll
      for (int j = 0; j < kBlocksN; ++j) mma_bfloat16(sum[i][j], fa[i], fb[j]);
    }
  }

  // Calls f(row, column, sum, the sum right of it).
  template <typename F>
  __device__ __forceinline__ void each_pair(F&& f) const {
#pragma unroll
    for (int i = 0; i < kBlocksM; ++i) {
#pragma unroll
      for (int j = 0; j < kBlocksN; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          f(row0 + 16 * i + 8 * half + lane / 4, column0 + 8 * j + lane % 4 * 2, sum[i][j][2 * half],
            sum[i][j][2 * half + 1]);
        }
      }
    }
  }
};

// --- float units ---

/// kM x kN sums of products in float. A thread has kThreadM neighbouring rows, and columns 16 apart.
template <typename S, int kM, int kN>
struct FloatTile {
  using Storage = S;
  static constexpr int kRows = kM, kColumns = kN, kThreadM = kM / 16, kThreadN = kN / 16, kTapRows = 1;
  static constexpr int kStep = 4;  // terms that a thread reads at once

  float sum[kThreadM][kThreadN];
  int row0, column0;

  __device__ __forceinline__ FloatTile(const float* bias, int columns) {
    row0 = static_cast<int>(threadIdx.x) / 16 * kThreadM, column0 = static_cast<int>(threadIdx.x) % 16;
#pragma unroll
    for (int j = 0; j < kThreadN; ++j) {
      const int c = column0 + 16 * j;
      const float first = bias != nullptr && c < columns ? bias[c] : 0.0f;
#pragma unroll
      for (int i = 0; i < kThreadM; ++i) sum[i][j] = first;
    }
  }

  __device__ __forceinline__ void multiply(Shared<S> a, Shared<S> b) {
    // Chunks are permuted alike in rows a multiple of 8 apart.
    static_assert(kThreadM % 8 == 0);
    const Shared<S> first_a = a + row0 * kDepth<S>;
#pragma unroll 1
    for (int k = 0; k < kDepth<S>; k += kStep) {
      const int chunk = k / kChunk<S>, within = k % kChunk<S>;
      const Shared<S> first_b = b + (chunk_place<S, kDepthChunks>(column0, chunk) + within);
      Floats<kStep> fa[kThreadM];
#pragma unroll
      for (int i = 0; i < kThreadM; ++i)
        fa[i] = load<kStep>(first_a + (chunk_place<S, kDepthChunks>(i, chunk) + within));
#pragma unroll
      for (int j = 0; j < kThreadN; ++j) {
        const Floats<kStep> fb = load<kStep>(first_b + 16 * j * kDepth<S>);
#pragma unroll
        for (int v = 0; v < kStep; ++v) {
#pragma unroll
          for (int i = 0; i < kThreadM; ++i) sum[i][j] = fmaf(fa[i][v], fb[v], sum[i][j]);
        }
      }
    }
  }

  __device__ __forceinline__ void multiply_transposed(Shared<S> a, Shared<S> b) {
#pragma unroll 2
    for (int k = 0; k < kDepth<S>; ++k) {
      Floats<kStep> fa[kThreadM / kStep];
#pragma unroll
      for (int i = 0; i < kThreadM; i += kStep) {
        const int row = row0 + i;
        fa[i / kStep] = load<kStep>(a + (chunk_place<S, kM / kChunk<S>>(k, row / kChunk<S>) + row % kChunk<S>));
      }
#pragma unroll
      for (int j = 0; j < kThreadN; ++j) {
        const int column = column0 + 16 * j;
        const float fb = load(b + (chunk_place<S, kN / kChunk<S>>(k, column / kChunk<S>) + column % kChunk<S>));
#pragma unroll
        for (int i = 0; i < kThreadM; ++i) sum[i][j] = fmaf(fa[i / kStep][i % kStep], fb, sum[i][j]);
      }
    }
  }

  __device__ __forceinline__ void store_rows(const TileOutput<S>& out, Shared<S>) const { store_each(out); }

  __device__ __forceinline__ void store_maxima(const TileOutput<S>& out) const {
#pragma unroll
    for (int i = 0; i < kThreadM; i += 4) {
      const int row = (row0 + i) / 4;
#pragma unroll
      for (int j = 0; j < kThreadN; ++j) {
        const int column = column0 + 16 * j;
        float best = -INFINITY;
        int place = 0;
#pragma unroll
        for (int tap = 0; tap < 4; ++tap) keep_larger(sum[i + tap][j], tap, best, place);
        if (row >= out.rows || column >= out.columns) continue;
        store(out.to + row * out.pitch + column, best);
        out.taps[row * out.pitch + column] = static_cast<std::uint8_t>(place);
      }
    }
  }

  __device__ __forceinline__ void store_sums(const TileOutput<float>& out) const { store_each(out); }

 private:
  template <typename To>
  __device__ __forceinline__ void store_each(const TileOutput<To>& out) const {
#pragma unroll
    for (int i = 0; i < kThreadM; ++i) {
#pragma unroll
      for (int j = 0; j < kThreadN; ++j) {
        const int row = row0 + i, column = column0 + 16 * j;
        if (row < out.rows && column < out.columns) store(out.to + row * out.pitch + column, sum[i][j]);
      }
    }
  }
};

}  // namespace dattn::cuda
