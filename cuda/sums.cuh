// Sums in a fixed order: teams of threads that share a row, and sums of columns in two passes.
#pragma once

#include <algorithm>

#include "cuda/common.cuh"

namespace dattn::cuda {

// --- rows: each is the work of a team, some threads of a warp or a whole block ---

/// kLanes neighbouring threads of a warp, a power of two, for each row: where rows are short. sum() and max() are for
/// all lanes of a warp together, those of teams beyond the last row too.
template <int kLanes>
struct LaneTeam {
  static constexpr int kSize = kLanes, kTeams = kThreads / kLanes;  ///< threads of a team, teams of a block
  __device__ std::int64_t row() const {
    return static_cast<std::int64_t>(blockIdx.x) * kTeams + static_cast<int>(threadIdx.x) / kLanes;
  }
  __device__ int index() const { return static_cast<int>(threadIdx.x) % kLanes; }
  __device__ float sum(float x) const { return warp_sum<kLanes>(x); }
  __device__ float max(float x) const { return warp_max<kLanes>(x); }
  /// at(0) + at(1) + ... + at(count - 1)
  template <typename F>
  __device__ auto sum_of(std::int64_t count, const F& at) const {
    decltype(at(count)) sum = 0;
    for (std::int64_t i = index(); i < count; i += kLanes) sum += at(i);
    return warp_sum<kLanes>(sum);
  }
};
using WarpTeam = LaneTeam<kWarpThreads>;

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

/// A team's row: the last one again for teams beyond it, which take part in sums and must not write.
template <typename Team>
__device__ std::int64_t row_within(const Team& team, std::int64_t rows) {
  return team.row() < rows ? team.row() : rows - 1;
}

/// Blocks of teams for so many rows.
template <typename Team>
Grid grid_of_teams(std::int64_t rows) {
  return {static_cast<unsigned>((rows + Team::kTeams - 1) / Team::kTeams), kThreads};
}

/// Calls f.operator()<Team>(grid) with the team for `rows` rows of `columns` elements.
template <typename F>
void dispatch_team(std::int64_t rows, std::int64_t columns, F&& f) {
  const auto with = [&]<typename Team>() { f.template operator()<Team>(grid_of_teams<Team>(rows)); };
  if (columns <= 32) return with.template operator()<LaneTeam<4>>();
  if (columns <= 128) return with.template operator()<LaneTeam<16>>();
  if (columns < 2048) return with.template operator()<WarpTeam>();
  with.template operator()<BlockTeam>();
}

namespace detail {
template <typename Team, typename F>
__global__ void team_kernel(std::int64_t n, F f) {
  static_assert(Team::kSize == 1 || Team::kSize == kWarpThreads, "teams that end early share no warp");
  const Team team;
  if (team.row() < n) f(team);
}

template <typename Team, typename F>
void for_each_team(const char* name, std::int64_t n, const F& f) {
  launch(name, team_kernel<Team, F>, grid_of_teams<Team>(n), n, f);
}
}  // namespace detail

/// Calls f(team) with a warp for every item, its row(): F is a struct with a `__device__ void operator()(const
/// WarpTeam&) const`.
template <typename F>
void for_each_warp(const char* name, std::int64_t n, const F& f) {
  detail::for_each_team<WarpTeam>(name, n, f);
}

/// The same for items that are sums of `parts` numbers, with a thread for each where these are few: F takes any team.
template <typename F>
void for_each_sum(const char* name, std::int64_t n, std::int64_t parts, const F& f) {
  parts > kWarpThreads ? detail::for_each_team<WarpTeam>(name, n, f) : detail::for_each_team<LaneTeam<1>>(name, n, f);
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
  template <typename Team>
  __device__ void operator()(const Team& team) const {
    Floats<N> sum;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sum[i] = team.sum_of(parts, [&](std::int64_t p) { return partial[(p * N + i) * C + team.row()]; });
    }
    if (team.index() == 0) g(team.row(), sum);
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
  for_each_sum(name, C, parts, detail::FinishColumns<N, G>{partial.data(), parts, C, g});
}

}  // namespace dattn::cuda
