// Gradients of what DAttention's position bias is made of: relative table (28), fixed table (27), log-CPB network (30).
// A block adds tiles of score gradients, which lie in shared memory, to sums of its own; every number of these belongs
// to one warp, so that each tile is added in a fixed order, and the blocks' sums are added in order in the end.
#pragma once

#include <algorithm>

#include "cuda/dattention_bias.cuh"

namespace dattn::cuda {

struct BiasGradient {
  bool wanted = false;    // whether anything can be trained
  int elements = 0;       // of a block's sums: a table, or [4, hidden]
  int shared_floats = 0;  // of shared memory that they take while the block runs; 0 where they are in `sums` at once
  float* sums = nullptr;  // [blocks, elements]; of a fixed table its gradient [M,Q,K]
};

/// Score gradients of some queries and samples of one head: those of sample j and query i at [j * stride + i].
struct ScoreTile {
  int image, head, query, queries, sample, samples, stride;
};

__device__ inline int block_warps() { return static_cast<int>(blockDim.x) / kWarpThreads; }
constexpr int kMostWarps = 4;

/// Score gradient of query (y, x); zero outside of the tile.
__device__ __forceinline__ float tile_score(const DeviceBias& b, const ScoreTile& t, Shared<const float> row, int y,
                                            int x) {
  const int i = y * b.width + x - t.query;
  if (x < 0 || x >= b.width || i < 0 || i >= t.queries) return 0;
  return row[i];
}

/// The first table row at or after `row` that belongs to this warp.
__device__ inline int own_row(int row) {
  const int warps = block_warps();
  return row + (warp_index() + warps - row % warps) % warps;
}

/// Relative table, maps of its size: the transposed blend (28), cell by cell. `sums` is one head's table.
__device__ inline void add_windows(const DeviceBias& b, const ScoreTile& t, Shared<const float> dscores,
                                   Shared<const float4> samples, Shared<float> sums) {
  const int first_y = t.query / b.width, last_y = (t.query + t.queries - 1) / b.width;
  for (int j = 0; j < t.samples; ++j) {
    const float4 sample = samples[j];
    const int row = __float_as_int(sample.x) - 2, column = __float_as_int(sample.y) - 2;
    const float fy = sample.z, fx = sample.w;
    const Shared<const float> scores = dscores + j * t.stride;
    const int last = min(last_y + 1 + row, 2 * b.table_height - 2);
    for (int r = own_row(max(first_y + row, 0)); r <= last; r += block_warps()) {
      const int y = r - row;
      for (int x = lane_index(); x <= b.width; x += kWarpThreads) {
        if (x + column < 0 || x + column >= b.table_row()) continue;
        const float lower = tile_score(b, t, scores, y, x), lower_left = tile_score(b, t, scores, y, x - 1);
        const float upper = tile_score(b, t, scores, y - 1, x), upper_left = tile_score(b, t, scores, y - 1, x - 1);
        const float e = fmaf(fx, lower_left - lower, lower), above = fmaf(fx, upper_left - upper, upper);
        sums[r * b.table_row() + x + column] += fmaf(fy, above - e, e);
      }
    }
    __syncwarp();
  }
}

/// What queries of one map row, at the fraction 1 - share of a table row, give to column `column` of it. `range` is how
/// many queries away from its own place a column may be seen.
__device__ inline float row_gradient(const DeviceBias& b, const ScoreTile& t, Shared<const float> scores,
                                     const float4& sample, int y, int column) {
  int first = 0, last = b.width - 1;
  if (b.table_width > 1 && b.width > 1) {  // (10), turned round
    const auto cells = static_cast<float>(b.table_width - 1), steps = static_cast<float>(b.width - 1);
    const float at = (static_cast<float>(column) / cells - 1 + sample.y * 0.5f + 0.5f) * steps, reach = steps / cells;
    first = static_cast<int>(fminf(fmaxf(at - reach - 1, 0.0f), steps));
    last = static_cast<int>(fminf(fmaxf(at + reach + 1, -1.0f), steps));
  }
  float sum = 0;
  for (int x = first; x <= last; ++x) {
    const Cell cell = cell_of<BiasForm::any>(b, sample, {0, y, x});
    const int away = column - (cell.column - 2);
    if (away != 0 && away != 1) continue;
    sum += (away == 0 ? 1 - cell.fx : cell.fx) * tile_score(b, t, scores, y, x);
  }
  return sum;
}

/// Relative table, maps of other sizes: each table cell looks for the queries that see it. `sums` is one head's table.
__device__ inline void add_cells(const DeviceBias& b, const ScoreTile& t, Shared<const float> dscores,
                                 Shared<const float4> samples, float* sums) {
  const int first_y = t.query / b.width, last_y = (t.query + t.queries - 1) / b.width;
  for (int j = 0; j < t.samples; ++j) {
    const float4 sample = samples[j];
    for (int y = first_y; y <= last_y; ++y) {
      const Cell cell = cell_of<BiasForm::any>(b, sample, {0, y, 0});
      for (int r = max(cell.row - 2, 0); r <= min(cell.row - 1, 2 * b.table_height - 2); ++r) {
        if (r % block_warps() != warp_index()) continue;
        const float share = r == cell.row - 2 ? 1 - cell.fy : cell.fy;
        for (int column = lane_index(); column < b.table_row(); column += kWarpThreads) {
          sums[r * b.table_row() + column] += share * row_gradient(b, t, dscores + j * t.stride, sample, y, column);
        }
      }
    }
    __syncwarp();
  }
}

/// Fixed table (27): every number has one query and one sample, and its block sees them once an image.
__device__ inline void add_fixed(const DeviceBias& b, const ScoreTile& t, Shared<const float> dscores, float* dtable) {
  const std::int64_t row = static_cast<std::int64_t>(t.head) * b.height * b.width + t.query;
  for (int at = static_cast<int>(threadIdx.x); at < t.queries * t.samples; at += static_cast<int>(blockDim.x)) {
    const int i = at / t.samples, j = at - i * t.samples;
    dtable[(row + i) * b.samples + t.sample + j] += dscores[j * t.stride + i];
  }
}

/// log-CPB network (30): lanes share out hidden units, warps share out samples. `sums` [warps, 4, hidden]: of w2, b1,
/// and both columns of w1.
__device__ inline void add_log_cpb(const DeviceBias& b, const ScoreTile& t, Shared<const float> dscores,
                                   Shared<const float4> samples, Shared<float> sums) {
  const float* w2 = b.w2 + t.head % b.per_group * b.hidden;
  for (int first = 0; first < b.hidden; first += kWarpThreads) {
    const int c = first + lane_index(), unit = min(c, b.hidden - 1);
    const float wy = b.w1[2 * unit], wx = b.w1[2 * unit + 1], start = b.b1[unit], weight = w2[unit];
    Floats<4> sum{};
    for (int j = warp_index(); j < t.samples; j += block_warps()) {
      const float4 sample = samples[j];
      for (int i = 0; i < t.queries; i += kWarpThreads) {
        const int own = min(i + lane_index(), t.queries - 1);
        const Query query = query_of(b, t.query + own);
        const float own_fy = log_distance(distance_y(b, sample, query));
        const float own_fx = log_distance(distance_x(b, sample, query));
        const float own_score = dscores[j * t.stride + own];
        for (int from = 0; from < min(kWarpThreads, t.queries - i); ++from) {
          const float fy = __shfl_sync(kFullWarp, own_fy, from), fx = __shfl_sync(kFullWarp, own_fx, from);
          const float g = __shfl_sync(kFullWarp, own_score, from), h = fmaf(wx, fx, fmaf(wy, fy, start));
          if (h <= 0) continue;
          const float dunit = g * weight;
          sum[0] = fmaf(g, h, sum[0]), sum[1] += dunit;
          sum[2] = fmaf(dunit, fy, sum[2]), sum[3] = fmaf(dunit, fx, sum[3]);
        }
      }
    }
#pragma unroll
    for (int place = 0; place < 4; ++place) {
      if (c < b.hidden) sums[(warp_index() * 4 + place) * b.hidden + c] += sum[place];
    }
  }
}

// --- a block's sums ---

/// Sets them to zero; a barrier must follow.
__device__ inline void begin_bias_gradient(const BiasGradient& g, Shared<float> shared) {
  if (!g.wanted) return;
  for (int i = static_cast<int>(threadIdx.x); i < g.shared_floats; i += static_cast<int>(blockDim.x)) shared[i] = 0.0f;
  if (g.elements == 0 || g.shared_floats > 0) return;
  float* own = g.sums + static_cast<std::int64_t>(blockIdx.x) * g.elements;
  for (int i = static_cast<int>(threadIdx.x); i < g.elements; i += static_cast<int>(blockDim.x)) own[i] = 0;
}

/// Adds a tile. Barriers must lie before and after.
template <BiasForm kForm>
__device__ void add_bias_gradient(const DeviceBias& b, const BiasGradient& g, const ScoreTile& t,
                                  Shared<const float> dscores, Shared<const float4> samples, Shared<float> shared) {
  if constexpr (kForm == BiasForm::window) {
    add_windows(b, t, dscores, samples, shared);
  } else if (b.kind == BiasKind::table) {
    add_cells(b, t, dscores, samples, g.sums + static_cast<std::int64_t>(blockIdx.x) * g.elements);
  } else if (b.kind == BiasKind::fixed) {
    add_fixed(b, t, dscores, g.sums);
  } else if (b.kind == BiasKind::log_cpb) {
    add_log_cpb(b, t, dscores, samples, shared);
  }
}

/// Writes those of shared memory where the fold finds them.
__device__ inline void end_bias_gradient(const BiasGradient& g, Shared<const float> shared) {
  if (!g.wanted || g.shared_floats == 0) return;
  __syncthreads();
  float* own = g.sums + static_cast<std::int64_t>(blockIdx.x) * g.elements;
  for (int i = static_cast<int>(threadIdx.x); i < g.elements; i += static_cast<int>(blockDim.x)) {
    float sum = 0;
    for (int at = i; at < g.shared_floats; at += g.elements) sum += shared[at];  // of warps, where they have their own
    own[i] = sum;
  }
}

/// How the blocks of a sweep over queries share out images and queries, and their sums.
class BiasGradientParts {
 public:
  /// `tiles` are those of an image's queries.
  BiasGradientParts(const DeviceBias& bias, BiasForm form, const DAttentionBias& b, int images, int heads, int tiles);

  int image_parts, chunks;
  bool sweeps_table;  ///< whether a table's gradient takes a sweep of its own, attend_table
  BiasGradient gradient;

  /// Adds the blocks' sums to the gradients of the parameters.
  void fold(const DeviceBias& bias, const DAttentionBias& b, int heads) const;

 private:
  bool table_, log_cpb_;
  Scratch<float> sums_;
};

}  // namespace dattn::cuda
