// The gradient of a relative table (28) on maps of its size, where shared memory does not hold the table: a third sweep
// of DAttention's backward, on CUDA cores. A block owns some rows and columns of one head's table in shared memory. It
// makes the score gradients of all pairs of a query and a sample that see them again, tile by tile, and adds them up.
#include "cuda/dattention_attend.cuh"

namespace dattn::cuda {

namespace {

constexpr int kTableThreads = 256, kTableWarps = kTableThreads / kWarpThreads;
constexpr int kTableSamples = 16;       // of a tile, at most
constexpr int kTableNumbers = 1 << 14;  // of a block's part of the table, at most

// How a head's table is cut into the parts of blocks. A pair gives to two neighbouring rows and columns, so that parts
// of R rows compute each pair (R + 1) / R times.
struct TableCut {
  int rows, columns, row_parts, column_parts;

  TableCut(const DeviceBias& b, int heads, int numbers) {
    constexpr int kWantedBlocks = 512, kLeastRows = 2;
    const int table_rows = 2 * b.table_height - 1;
    columns = std::min(b.table_row(), numbers);
    rows = std::min(numbers / columns, std::max(kLeastRows, table_rows * heads / kWantedBlocks));
    row_parts = (table_rows + rows - 1) / rows, column_parts = (b.table_row() + columns - 1) / columns;
  }
};

struct TableShared {
  Shared<float> keys, values, scores, sums;
  Shared<float4> samples;

  template <typename S>
  __device__ TableShared(const BackwardCall<S>& call, const TableCut& cut) {
    DynamicShared shared;
    keys = shared.take<float>(call.tile * call.a.row_channels);
    values = shared.take<float>(call.tile * call.a.row_channels);
    samples = shared.take<float4>(call.tile);
    scores = shared.take<float>(call.tile * kTableThreads);
    sums = shared.take<float>(cut.rows * cut.columns);
  }
  static std::size_t bytes(const AttendSizes& a, int tile, int numbers) {
    return 2 * shared_bytes<float>(tile * a.row_channels) + shared_bytes<float4>(tile) +
           shared_bytes<float>(tile * kTableThreads) + shared_bytes<float>(numbers);
  }
};

// Some rows and columns, of a table or of a map: [row, row_end) and [column, column_end).
struct Box {
  int row, row_end, column, column_end;
};

__device__ inline int table_row_of(const float4& sample) { return __float_as_int(sample.x) - 2; }
__device__ inline int table_column_of(const float4& sample) { return __float_as_int(sample.y) - 2; }

// The queries that see a part of the table from any of the samples.
__device__ inline Box queries_of(const DeviceBias& b, const Box& part, Shared<const float4> samples, int count) {
  Box box{b.height, 0, b.width, 0};
  for (int j = 0; j < count; ++j) {
    const float4 sample = samples[j];
    const int row = table_row_of(sample), column = table_column_of(sample);
    box.row = min(box.row, part.row - 1 - row), box.row_end = max(box.row_end, part.row_end - row);
    box.column = min(box.column, part.column - 1 - column);
    box.column_end = max(box.column_end, part.column_end - column);
  }
  return {max(box.row, 0), min(box.row_end, b.height), max(box.column, 0), min(box.column_end, b.width)};
}

// Score gradients (19) of a thread's query and a tile of samples to scores [samples, kTableThreads / team]; those of
// samples from which its row does not see the part are left out.
template <typename S, int kChannels>
__device__ void score_gradients(const BackwardCall<S>& call, const TableShared& shared, const Box& part, int n, int m,
                                int first, int count, const Query& query) {
  const AttendSizes& a = call.a;
  const int rows = kTableThreads / a.team, own = static_cast<int>(threadIdx.x) / a.team;
  const int channel = static_cast<int>(threadIdx.x) % a.team * kChannels;
  const std::int64_t at = a.row(n, a.queries, query.index, m);
  const Floats<kChannels> q = own_channels<kChannels>(a, call.q + at, true, a.scale * kLog2e);
  const Floats<kChannels> dmix = own_channels<kChannels>(a, call.dmix + at, true, 1);
  const float lse = call.lse[a.query(n, m, query.index)] * kLog2e, delta = call.delta[a.query(n, m, query.index)];
#pragma unroll 2
  for (int j = 0; j < count; ++j) {
    const float4 sample = shared.samples[j];
    const int row = query.y + table_row_of(sample);
    if (row < part.row - 1 || row >= part.row_end) continue;  // the whole block
    const float product = team_sum(dot(dmix, shared.values + (j * a.row_channels + channel)), a.team);
    const float bias = bias_point<BiasForm::any>(call.bias, shared.sums, m, first + j, sample, query).value;
    const float score = fmaf(bias, kLog2e, team_sum(dot(q, shared.keys + (j * a.row_channels + channel)), a.team));
    const float keep = call.drops ? call.mask.factor(a.weight(n, m, query.index, first + j)) : 1.0f;
    if (channel == 0) shared.scores[j * rows + own] = Weight(exp2f(score - lse), product, delta, keep).dscore;
  }
}

// Adds those of queries (y, x) to (y, x + queries - 1): each column of the part belongs to one thread.
__device__ inline void add_scores(const TableShared& shared, const Box& part, int stride, int count, int y, int x,
                                  int queries) {
  const int columns = part.column_end - part.column;
  for (int j = 0; j < count; ++j) {
    const float4 sample = shared.samples[j];
    const int row = y + table_row_of(sample), from = x + table_column_of(sample) - part.column;
    if (row < part.row - 1 || row >= part.row_end) continue;
    const Shared<const float> scores = shared.scores + j * stride;
    const int first = max(from, 0) / kWarpThreads, last = min(from + queries, columns - 1);
    const int turn = (warp_index() + kTableWarps - first % kTableWarps) % kTableWarps;
    for (int column = (first + turn) * kWarpThreads + lane_index(); column <= last; column += kTableThreads) {
      const int i = column - from;
      if (i < 0) continue;
      const float here = i < queries ? static_cast<float>(scores[i]) : 0.0f;
      const float left = i > 0 ? static_cast<float>(scores[i - 1]) : 0.0f;
      const float g = fmaf(sample.w, left - here, here);
      const int at = (row - part.row) * columns + column;
      if (row >= part.row) shared.sums[at] += (1 - sample.z) * g;
      if (row + 1 < part.row_end) shared.sums[at + columns] += sample.z * g;
    }
  }
}

// What a tile of samples gives to the part.
template <typename S, int kChannels>
__device__ void sample_tile(const BackwardCall<S>& call, const TableShared& shared, const Box& part, int n, int m,
                            int first) {
  const AttendSizes& a = call.a;
  const int count = min(call.tile, a.samples - first), rows = kTableThreads / a.team;
  __syncthreads();
  stage_samples<BiasForm::any>(call.bias, n, m, first, count, shared.samples);
  __syncthreads();
  const Box box = queries_of(call.bias, part, shared.samples, count);
  if (box.row >= box.row_end || box.column >= box.column_end) return;
  stage_rows(a, call.k + a.row(n, a.samples, first, m), count, call.tile, 1, shared.keys);
  stage_rows(a, call.v + a.row(n, a.samples, first, m), count, call.tile, 1, shared.values);
  for (int y = box.row; y < box.row_end; ++y) {
    for (int x = box.column; x < box.column_end; x += rows) {
      const int own = min(x + static_cast<int>(threadIdx.x) / a.team, box.column_end - 1);
      __syncthreads();
      score_gradients<S, kChannels>(call, shared, part, n, m, first, count, {y * call.bias.width + own, y, own});
      __syncthreads();
      add_scores(shared, part, rows, count, y, x, min(rows, box.column_end - x));
    }
  }
}

template <typename S, int kChannels>
__global__ void __launch_bounds__(kTableThreads, kChannels <= 16 ? 2 : 1)
    attend_table_kernel(BackwardCall<S> call, TableCut cut, float* dtable) {
  const DeviceBias& b = call.bias;
  const TableShared shared(call, cut);
  const int parts = cut.row_parts * cut.column_parts, m = static_cast<int>(blockIdx.x) / parts;
  const int own = static_cast<int>(blockIdx.x) - m * parts, row = own / cut.column_parts * cut.rows,
            column = own % cut.column_parts * cut.columns;
  const Box part{row, min(row + cut.rows, 2 * b.table_height - 1), column, min(column + cut.columns, b.table_row())};
  const int columns = part.column_end - part.column, numbers = (part.row_end - part.row) * columns;
  for (int i = static_cast<int>(threadIdx.x); i < numbers; i += kTableThreads) shared.sums[i] = 0.0f;
  for (int n = 0; n < call.a.images; ++n) {
    for (int first = 0; first < call.a.samples; first += call.tile) {
      sample_tile<S, kChannels>(call, shared, part, n, m, first);
    }
  }
  __syncthreads();
  float* to = dtable + static_cast<std::int64_t>(m) * b.table_size();
  for (int i = static_cast<int>(threadIdx.x); i < numbers; i += kTableThreads) {
    to[(part.row + i / columns) * b.table_row() + part.column + i % columns] += shared.sums[i];
  }
}

template <typename S>
void sweep_table(BackwardCall<S> call, const DAttentionBias& b) {
  call.a.team = 1;
  dispatch_channels<32>(call.a.head_channels, [&]<int kChannels>() {
    AttendSizes& a = call.a;
    choose_team(a, kChannels);
    call.tile = tile_rows(a.row_channels, kTableSamples);
    const std::size_t others = TableShared::bytes(a, call.tile, 0);
    const auto left = static_cast<int>((device().shared_bytes - others) / sizeof(float));
    const TableCut cut(call.bias, a.heads, std::min(left, kTableNumbers));
    launch("dattention_attend_backward", attend_table_kernel<S, kChannels>,
           Grid{static_cast<unsigned>(a.heads * cut.row_parts * cut.column_parts), kTableThreads,
                TableShared::bytes(a, call.tile, cut.rows * cut.columns)},
           call, cut, b.table.grad().data<float>());
  });
}

}  // namespace

void attend_table(const BackwardCall<float>& call, const DAttentionBias& b) { sweep_table(call, b); }
void attend_table(const BackwardCall<bfloat16>& call, const DAttentionBias& b) { sweep_table(call, b); }

}  // namespace dattn::cuda
