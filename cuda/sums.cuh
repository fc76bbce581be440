// Sums in a fixed order: teams of threads that share a row, and sums of columns in two passes.
#pragma once

#include <algorithm>

#include "cuda/common.cuh"

namespace dattn::cuda {

// --- rows: each is the work of a warp or of a block ---

/// A warp for each row: where rows are short.
struct WarpTeam {
  static constexpr int kSize = kWarpThreads, kTeams = kThreads / kWarpThreads;  ///< threads of a team, teams of a block
  __device__ std::int64_t row() const { return static_cast<std::int64_t>(blockIdx.x) * kTeams + warp_index(); }
  __device__ int index() const { return lane_index(); }
  __device__ float sum(float x) const { return warp_sum(x); }
  __device__ float max(float x) const { return warp_max(x); }
};

/// A block for each row: where they are long.
struct BlockTeam {
  static constexpr int kSize = kThreads, kTeams = 1;
  __device__ std::int64_t row() const { return blockIdx.x; }
  __device__ int index() const { return static_cast<int>(threadIdx.x); }
  __device__ float sum(float x) const {
    DATTN_SHARED(float, scratch, kThreads / kWarpThreads);
    return block_sum(x, scratch);
  }
  __device__ float max(float x) const {
    DATTN_SHARED(float, scratch, kThreads / kWarpThreads);
    return block_max(x, scratch);
  }
};

/// Calls f.operator()<Team>(grid) with the team for `rows` rows of `columns` elements.
template <typename F>
void dispatch_team(std::int64_t rows, std::int64_t columns, F&& f) {
  constexpr std::int64_t kLong = 2048;
  if (columns < kLong) {
    f.template operator()<WarpTeam>(
        Grid{static_cast<unsigned>((rows + WarpTeam::kTeams - 1) / WarpTeam::kTeams), kThreads});
  } else {
    f.template operator()<BlockTeam>(Grid{static_cast<unsigned>(rows), kThreads});
  }
}

// --- columns ---

namespace detail {

constexpr int kColumns = 32, kRowThreads = 8;  // of a block

// partial [parts, N, C]: sums over the rows of each part.
template <int N, typename F>
__global__ void column_parts_kernel(std::int64_t rows, std::int64_t C, std::int64_t part, F f, float* partial) {
  DATTN_SHARED(float, sums, kRowThreads* N* kColumns);
  const auto x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kColumns + x;
  const std::int64_t begin = blockIdx.y * part, end = begin + part < rows ? begin + part : rows;
  Floats<N> sum{};
  if (c < C) {
    for (std::int64_t row = begin + y; row < end; row += kRowThreads) {
      const Floats<N> terms = f(row, c);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += terms[i];
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) sums[(y * N + i) * kColumns + x] = sum[i];
  __syncthreads();
  if (y != 0 || c >= C) return;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float total = 0;
    for (int j = 0; j < kRowThreads; ++j) total += sums[(j * N + i) * kColumns + x];
    partial[(static_cast<std::int64_t>(blockIdx.y) * N + i) * C + c] = total;
  }
}

template <int N, typename G>
struct FinishColumns {
  const float* partial;
  std::int64_t parts, C;
  G g;
  __device__ void operator()(std::int64_t c) const {
    Floats<N> sum{};
    for (std::int64_t p = 0; p < parts; ++p) {
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += partial[(p * N + i) * C + c];
    }
    g(c, sum);
  }
};

}  // namespace detail

/// Calls g(c, sums) on the device for every column c of [rows, C], where sums are those over the rows of the N numbers
/// f(row, c). F and G are structs as for for_each_item: `Floats<N> operator()(row, c) const`, `void operator()(c,
/// Floats<N>) const`.
template <int N, typename F, typename G>
void column_sums(const char* name, std::int64_t rows, std::int64_t C, const F& f, const G& g) {
  constexpr std::int64_t kLeastRows = 64, kBlocks = 1024, kMostParts = 256;
  const std::int64_t columns = (C + detail::kColumns - 1) / detail::kColumns;
  if (columns == 0) return;
  const std::int64_t wanted = std::clamp<std::int64_t>(kBlocks / columns, 1, kMostParts);
  const std::int64_t part = std::max(kLeastRows, (rows + wanted - 1) / wanted), parts = (rows + part - 1) / part;
  Scratch<float> partial(parts * N * C);
  launch(name, detail::column_parts_kernel<N, F>,
         Grid{dim3(static_cast<unsigned>(columns), static_cast<unsigned>(parts)),
              dim3(detail::kColumns, detail::kRowThreads)},
         rows, C, part, f, partial.data());
  for_each_item(name, C, detail::FinishColumns<N, G>{partial.data(), parts, C, g});
}

}  // namespace dattn::cuda
