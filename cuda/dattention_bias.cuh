// The position bias of DAttention's scores in kernels: relative table (10)-(12), fixed table (13), log-CPB network
// (14), and their derivatives by the samples' positions (29), (30). The device's layers/dattention_bias-inl.h.
#pragma once

#include "cuda/common.cuh"
#include "layers/dattention_kernels.h"

namespace dattn::cuda {

/// What a kernel is compiled for: no bias; a relative table on maps of its size, in shared memory; or any kind, from
/// global memory.
enum class BiasForm : unsigned char { none, window, any };

/// Numbers of a row in a ring around a relative table (DeviceBias) for maps of `width` columns. The queries of a warp
/// are neighbours, and so are the cells that they read for a sample, but where a row of the map ends. Rows of the ring
/// are padded so that the cells beyond lie in the next banks of shared memory all the same.
constexpr int ring_row_of(int width) {
  const int least = 2 * width + 3;
  return width % kWarpThreads == 0 ? least : least + (kWarpThreads - (width + 3) % kWarpThreads) % kWarpThreads;
}

/// What the bias needs, in one form for all kinds.
struct DeviceBias {
  BiasKind kind = BiasKind::none;
  bool windows = false;                        // of a table of which neighbouring queries are one cell apart
  int height = 1, width = 1;                   // of the map of queries
  int samples = 0, groups = 1, per_group = 1;  // K, G, M/G
  int table_height = 0, table_width = 0;       // of the map that the table was made for
  int ring_row = 0;                            // ring_row_of(table_width)
  int hidden = 0;
  float step_y = 0, step_x = 0;      // between the coordinates of neighbouring queries
  float first_y = 0, first_x = 0;    // coordinate of the first
  const float* positions = nullptr;  // [N,K,G,2]
  const float* table = nullptr;      // [M, ring_size()]; or fixed [M,H*W,K]
  const float *w1 = nullptr, *b1 = nullptr, *w2 = nullptr;

  /// Relative tables lie in a ring of two zeros, so that a row or column moved to the ring's edge reads zeros.
  __host__ __device__ int ring_size() const { return (2 * table_height + 3) * ring_row; }
  /// Numbers of one head's table without the ring.
  __host__ __device__ int table_row() const { return 2 * table_width - 1; }
  __host__ __device__ int table_size() const { return (2 * table_height - 1) * table_row(); }
};

/// A query's place on the map.
struct Query {
  int index, y, x;
};

__device__ inline Query query_of(const DeviceBias& b, int index) {
  const int y = index / b.width;
  return {index, y, index - y * b.width};
}

/// Of one sample, what its biases to all queries share: for windows (row, column, fy, fx), the first two as integers,
/// of the cell in the ring that query (0, 0) lies in (11); else its position (y, x).
__device__ inline float4 sample_of(const DeviceBias& b, int image, int head, int j) {
  const float* p =
      b.positions + ((static_cast<std::int64_t>(image) * b.samples + j) * b.groups + head / b.per_group) * 2;
  if (!b.windows) return make_float4(p[0], p[1], 0, 0);
  const auto h = static_cast<float>(b.table_height), w = static_cast<float>(b.table_width);
  // Beyond these limits no query sees the table.
  const float v = fminf(fmaxf((h - 1) * (1 - p[0]) * 0.5f, -h - 2), 2 * h + 2);
  const float u = fminf(fmaxf((w - 1) * (1 - p[1]) * 0.5f, -w - 2), 2 * w + 2);
  const float row = floorf(v), column = floorf(u);
  return make_float4(__int_as_float(static_cast<int>(row) + 2), __int_as_float(static_cast<int>(column) + 2), v - row,
                     u - column);
}

/// A cell of the ring and the fractions in it.
struct Cell {
  int row, column;
  float fy, fx;
};

template <BiasForm kForm>
__device__ __forceinline__ Cell cell_of(const DeviceBias& b, const float4& sample, const Query& query) {
  if (kForm == BiasForm::window || b.windows) {
    const int row = query.y + __float_as_int(sample.x), column = query.x + __float_as_int(sample.y);
    return {min(max(row, 0), 2 * b.table_height + 1), min(max(column, 0), 2 * b.table_width + 1), sample.z, sample.w};
  }
  const auto h = static_cast<float>(b.table_height), w = static_cast<float>(b.table_width);
  const float y = fmaf(static_cast<float>(query.y), b.step_y, b.first_y);
  const float x = fmaf(static_cast<float>(query.x), b.step_x, b.first_x);
  const float v = fminf(fmaxf(((y - sample.x) * 0.5f + 1) * (h - 1), -2.0f), 2 * h - 1);  // (10)
  const float u = fminf(fmaxf(((x - sample.y) * 0.5f + 1) * (w - 1), -2.0f), 2 * w - 1);
  const float row = floorf(v), column = floorf(u);
  return {static_cast<int>(row) + 2, static_cast<int>(column) + 2, v - row, u - column};
}

/// A bias and its derivatives by the sample's position.
struct BiasPoint {
  float value, by_y, by_x;
};

/// Blend (12) of the four numbers of a cell; `ring` is one head's table. What is not used of the result costs nothing.
template <typename P>
__device__ __forceinline__ BiasPoint blend_cell(const DeviceBias& b, P ring, const Cell& cell) {
  const int at = cell.row * b.ring_row + cell.column, below = at + b.ring_row;
  const float t00 = ring[at], t01 = ring[at + 1], t10 = ring[below], t11 = ring[below + 1];
  const float top = fmaf(cell.fx, t01 - t00, t00), bottom = fmaf(cell.fx, t11 - t10, t10);
  const float right = fmaf(cell.fy, (t11 - t01) - (t10 - t00), t01 - t00);
  // (29): the table's coordinate moves against the sample's
  const float slope_y = -0.5f * static_cast<float>(b.table_height - 1);
  const float slope_x = -0.5f * static_cast<float>(b.table_width - 1);
  return {fmaf(cell.fy, bottom - top, top), slope_y * (bottom - top), slope_x * right};
}

// --- log-CPB network (14), (30) ---

constexpr float kLogScale = 0.48089834696298783f;  // 1 / (3 ln 2)

/// Logarithmic distance (14): sign(z) log2(1 + |z|) / 3 with z = 4 (query - position).
__device__ inline float log_distance(float delta) {
  const float z = 4 * delta;
  return copysignf(log1pf(fabsf(z)), z) * kLogScale;
}
/// Its derivative by the position.
__device__ inline float log_distance_slope(float delta) { return -4 * kLogScale / (1 + fabsf(4 * delta)); }

/// Hidden unit c before the ReLU.
__device__ inline float hidden_unit(const DeviceBias& b, int c, float fy, float fx) {
  return fmaf(b.w1[2 * c + 1], fx, fmaf(b.w1[2 * c], fy, b.b1[c]));
}

/// From a sample's position to a query.
__device__ inline float distance_y(const DeviceBias& b, const float4& sample, const Query& query) {
  return fmaf(static_cast<float>(query.y), b.step_y, b.first_y) - sample.x;
}
__device__ inline float distance_x(const DeviceBias& b, const float4& sample, const Query& query) {
  return fmaf(static_cast<float>(query.x), b.step_x, b.first_x) - sample.y;
}

template <bool kSlopes>
__device__ BiasPoint log_cpb(const DeviceBias& b, int head, const float4& sample, const Query& query) {
  const float dy = distance_y(b, sample, query), dx = distance_x(b, sample, query);
  const float fy = log_distance(dy), fx = log_distance(dx);
  const float* w2 = b.w2 + head % b.per_group * b.hidden;
  float value = 0, by_fy = 0, by_fx = 0;
  for (int c = 0; c < b.hidden; ++c) {
    const float unit = hidden_unit(b, c, fy, fx), weight = w2[c];
    if (unit <= 0) continue;  // not NaN, which must show
    value = fmaf(weight, unit, value);
    if constexpr (kSlopes) {
      by_fy = fmaf(weight, b.w1[2 * c], by_fy);
      by_fx = fmaf(weight, b.w1[2 * c + 1], by_fx);
    }
  }
  return {value, by_fy * log_distance_slope(dy), by_fx * log_distance_slope(dx)};
}

// --- all kinds ---

/// The bias of query and sample j of one head. `ring` is the head's table in shared memory, for windows.
template <BiasForm kForm, bool kSlopes = false>
__device__ __forceinline__ BiasPoint bias_point(const DeviceBias& b, Shared<const float> ring, int head, int j,
                                                const float4& sample, const Query& query) {
  if constexpr (kForm == BiasForm::window) {
    return blend_cell(b, ring, cell_of<kForm>(b, sample, query));
  } else if constexpr (kForm == BiasForm::any) {
    if (b.kind == BiasKind::table) {
      const float* global = b.table + static_cast<std::int64_t>(head) * b.ring_size();
      return blend_cell(b, global, cell_of<kForm>(b, sample, query));
    }
    if (b.kind == BiasKind::log_cpb) return log_cpb<kSlopes>(b, head, sample, query);
    const std::int64_t row = static_cast<std::int64_t>(head) * b.height * b.width + query.index;
    return {b.table[row * b.samples + j], 0, 0};
  } else {
    return {0, 0, 0};
  }
}

/// The bias of a call in kernel form; its memory lives as long as the object.
class BiasInputs {
 public:
  BiasInputs(const Tensor& q, const Tensor& k, const Tensor& positions, const DAttentionBias& b, std::int64_t heads);
  const DeviceBias& bias() const { return bias_; }
  /// What kernels are compiled for, where `other_bytes` of a block's shared memory are taken already.
  BiasForm form(std::size_t other_bytes) const;
  /// Shared memory of the table in form `window`.
  std::size_t ring_bytes() const { return shared_bytes<float>(bias_.ring_size()); }
  /// What the sums of a relative table's gradient need of it beside.
  std::size_t sums_bytes(const DAttentionBias& b) const {
    return b.kind == BiasKind::table && b.table.trainable() ? shared_bytes<float>(bias_.table_size()) : 0;
  }

 private:
  DeviceBias bias_;
  Scratch<float> ring_;
};

/// Copies a head's table to shared memory.
__device__ inline void stage_ring(const DeviceBias& b, int head, Shared<float> ring) {
  const float* from = b.table + static_cast<std::int64_t>(head) * b.ring_size();
  for (int i = static_cast<int>(threadIdx.x); i < b.ring_size(); i += static_cast<int>(blockDim.x)) ring[i] = from[i];
}

}  // namespace dattn::cuda
