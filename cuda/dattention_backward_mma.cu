// The gradients of DAttention's scores, softmax and mix (16)-(21), and of the bias (27)-(30), in bfloat16 on tensor
// cores: the two sweeps of dattention_backward.cu with a warp for 16 rows.
#include "cuda/dattention_mma.cuh"

namespace dattn::cuda {

namespace {

constexpr int kTile = 64;                   // rows of the other side in shared memory
constexpr int kScoreStride = kMmaRows + 4;  // of score gradients: keeps what a warp writes in different banks

// --- first sweep: queries ---

template <int kChannels, BiasForm kForm>
struct QueryShared {
  using Rows = MmaRows<kChannels>;
  Shared<bfloat16> queries, dmix, keys, values;
  Shared<float> delta, ring, dscores, sums;
  Shared<float4> samples;

  __device__ explicit QueryShared(const BackwardCall<bfloat16>& call) {
    DynamicShared shared;
    queries = shared.take<bfloat16>(kMmaRows * Rows::kStride);
    dmix = shared.take<bfloat16>(kMmaRows * Rows::kStride);
    keys = shared.take<bfloat16>(kTile * Rows::kStride);
    values = shared.take<bfloat16>(kTile * Rows::kStride);
    delta = shared.take<float>(kMmaRows);
    if constexpr (kForm != BiasForm::none) {
      samples = shared.take<float4>(kTile);
      dscores = shared.take<float>(kTile * kScoreStride);
      sums = shared.take<float>(call.gradient.shared_floats);
    }
    if constexpr (kForm == BiasForm::window) ring = shared.take<float>(call.bias.ring_size());
  }
  static std::size_t bytes(const BiasGradient& gradient) {
    const std::size_t rows = 2 * shared_bytes<bfloat16>(kMmaRows * Rows::kStride) +
                             2 * shared_bytes<bfloat16>(kTile * Rows::kStride) + shared_bytes<float>(kMmaRows);
    if (kForm == BiasForm::none) return rows;
    return rows + shared_bytes<float4>(kTile) + shared_bytes<float>(kTile * kScoreStride) +
           shared_bytes<float>(gradient.shared_floats);
  }
};

// Delta (18) of a block's queries, two threads for each, to shared memory and for the second sweep; `dmix` is staged.
template <int kChannels>
__device__ void find_delta(const BackwardCall<bfloat16>& call, int n, int m, int first_query,
                           Shared<const bfloat16> dmix, Shared<float> delta) {
  const AttendSizes& a = call.a;
  const int row = static_cast<int>(threadIdx.x) / 2, i = first_query + row;
  float sum = 0;
  if (i < a.queries) {
    const float* mix = call.mix + a.row(n, a.queries, i, m);
    for (int c = static_cast<int>(threadIdx.x) % 2; c < a.head_channels; c += 2) {
      sum = fmaf(mix[c], load(dmix + (row * MmaRows<kChannels>::kStride + c)), sum);
    }
  }
  sum += __shfl_xor_sync(kFullWarp, sum, 1);
  if (threadIdx.x % 2 != 0) return;
  delta[row] = sum;
  if (i < a.queries) call.delta[a.query(n, m, i)] = sum;
}

// One block's queries of one image: dq, and the gradient of the bias added to the block's sums.
template <int kChannels, BiasForm kForm>
__device__ void query_tile(const BackwardCall<bfloat16>& call, const QueryShared<kChannels, kForm>& shared, int n,
                           int m, int first_query) {
  using Rows = MmaRows<kChannels>;
  const AttendSizes& a = call.a;
  const int count_queries = min(kMmaRows, a.queries - first_query), warp_row = 16 * warp_index();
  __syncthreads();
  Rows::stage(a, call.q + a.row(n, a.queries, first_query, m), count_queries, kMmaRows, shared.queries);
  Rows::stage(a, call.dmix + a.row(n, a.queries, first_query, m), count_queries, kMmaRows, shared.dmix);
  __syncthreads();
  // Whole warps load fragments: before lanes part in find_delta.
  const typename Rows::Left q = Rows::left(shared.queries + warp_row * Rows::kStride);
  const typename Rows::Left dmix = Rows::left(shared.dmix + warp_row * Rows::kStride);
  find_delta<kChannels>(call, n, m, first_query, shared.dmix, shared.delta);
  __syncthreads();
  Query query[2];
  float lse[2], delta[2];
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const int own = warp_row + own_row() + 8 * row, i = min(first_query + own, a.queries - 1);
    query[row] = query_of(call.bias, i);
    // Rows beyond the last query have weights of zero.
    lse[row] = own < count_queries ? call.lse[a.query(n, m, i)] * kLog2e : INFINITY;
    delta[row] = shared.delta[own];
  }
  typename Rows::Sums dq{};
  const float scale = a.scale * kLog2e;
  for (int first = 0; first < a.samples; first += kTile) {
    const int count = min(kTile, a.samples - first);
    __syncthreads();
    Rows::stage(a, call.k + a.row(n, a.samples, first, m), count, kTile, shared.keys);
    Rows::stage(a, call.v + a.row(n, a.samples, first, m), count, kTile, shared.values);
    stage_samples<kForm>(call.bias, n, m, first, count, shared.samples);
    __syncthreads();
    for (int turn = 0; turn < count; turn += 16) {
      float s[2][4], product[2][4];
      Rows::products(q, shared.keys + turn * Rows::kStride, s);             // (6)
      Rows::products(dmix, shared.values + turn * Rows::kStride, product);  // (17)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int place = turn + c / 2 * 8 + own_column() + c % 2, j = min(place, count - 1);
        const float4 sample = staged_sample<kForm>(call.bias, shared.samples, j);
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          float& at = s[c / 2][2 * row + c % 2];
          float score = at * scale;
          if constexpr (kForm != BiasForm::none) {
            score =
                fmaf(bias_point<kForm>(call.bias, shared.ring, m, first + j, sample, query[row]).value, kLog2e, score);
          }
          const float keep = call.drops ? call.mask.factor(a.weight(n, m, query[row].index, first + j)) : 1.0f;
          at = Weight(fast_exp2(score - lse[row]), product[c / 2][2 * row + c % 2], delta[row], keep).dscore;
          if (place >= count) at = 0;
          if (kForm != BiasForm::none && call.gradient.wanted && place < count) {
            shared.dscores[place * kScoreStride + warp_row + own_row() + 8 * row] = at;
          }
        }
      }
      Rows::accumulate(s, shared.keys + turn * Rows::kStride, dq);  // (20)
    }
    if (kForm != BiasForm::none && call.gradient.wanted) {
      __syncthreads();
      add_bias_gradient<kForm>(call.bias, call.gradient,
                               ScoreTile{n, m, first_query, count_queries, first, count, kScoreStride}, shared.dscores,
                               shared.samples, shared.sums);
    }
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const int i = first_query + warp_row + own_row() + 8 * row;
    if (i < a.queries) Rows::store_row(a, dq, 8 * row, a.scale, call.dq + a.row(n, a.queries, i, m));
  }
}

// A block has a head, some images, and some of the queries: task (part * M + m) * chunks + chunk.
template <int kChannels, BiasForm kForm>
__global__ void __launch_bounds__(kMmaThreads, kChannels <= 16 && kForm != BiasForm::any ? 4 : 2)
    attend_queries_mma_kernel(BackwardCall<bfloat16> call) {
  const AttendSizes& a = call.a;
  const QueryShared<kChannels, kForm> shared(call);
  const int task = static_cast<int>(blockIdx.x), chunk = task % call.chunks, m = task / call.chunks % a.heads,
            part = task / call.chunks / a.heads, tiles = (a.queries + kMmaRows - 1) / kMmaRows;
  if constexpr (kForm == BiasForm::window) stage_ring(call.bias, m, shared.ring);
  if constexpr (kForm != BiasForm::none) begin_bias_gradient(call.gradient, shared.sums);
  for (int n = part_begin(a.images, part, call.parts); n < part_begin(a.images, part + 1, call.parts); ++n) {
    for (int t = part_begin(tiles, chunk, call.chunks); t < part_begin(tiles, chunk + 1, call.chunks); ++t) {
      query_tile<kChannels, kForm>(call, shared, n, m, t * kMmaRows);
    }
  }
  if constexpr (kForm != BiasForm::none) end_bias_gradient(call.gradient, shared.sums);
}

// --- second sweep: samples ---

template <int kChannels, BiasForm kForm>
struct SampleShared {
  using Rows = MmaRows<kChannels>;
  Shared<bfloat16> keys, values, q, dmix;
  Shared<float> lse, delta, ring;
  Shared<int2> places;

  __device__ explicit SampleShared(const DeviceBias& b) {
    DynamicShared shared;
    keys = shared.take<bfloat16>(kMmaRows * Rows::kStride);
    values = shared.take<bfloat16>(kMmaRows * Rows::kStride);
    q = shared.take<bfloat16>(kTile * Rows::kStride);
    dmix = shared.take<bfloat16>(kTile * Rows::kStride);
    lse = shared.take<float>(kTile);
    delta = shared.take<float>(kTile);
    if constexpr (kForm != BiasForm::none) places = shared.take<int2>(kTile);
    if constexpr (kForm == BiasForm::window) ring = shared.take<float>(b.ring_size());
  }
  static std::size_t bytes() {
    return 2 * shared_bytes<bfloat16>(kMmaRows * Rows::kStride) + 2 * shared_bytes<bfloat16>(kTile * Rows::kStride) +
           2 * shared_bytes<float>(kTile) + shared_bytes<int2>(kTile);
  }
};

template <int kChannels, BiasForm kForm>
__global__ void __launch_bounds__(kMmaThreads, kChannels <= 16 && kForm != BiasForm::any ? 4 : 2)
    attend_samples_mma_kernel(BackwardCall<bfloat16> call) {
  using Rows = MmaRows<kChannels>;
  const AttendSizes& a = call.a;
  const SampleShared<kChannels, kForm> shared(call.bias);
  const int blocks = (a.samples + kMmaRows - 1) / kMmaRows, turn = static_cast<int>(blockIdx.x) / blocks;
  const int plane = turn / call.query_parts, n = plane / a.heads, m = plane % a.heads;
  const int query_part = turn - plane * call.query_parts, warp_row = 16 * warp_index();
  const int first_sample = (static_cast<int>(blockIdx.x) - turn * blocks) * kMmaRows;
  const int count_samples = min(kMmaRows, a.samples - first_sample);
  Rows::stage(a, call.k + a.row(n, a.samples, first_sample, m), count_samples, kMmaRows, shared.keys);
  Rows::stage(a, call.v + a.row(n, a.samples, first_sample, m), count_samples, kMmaRows, shared.values);
  if constexpr (kForm == BiasForm::window) stage_ring(call.bias, m, shared.ring);
  __syncthreads();
  const typename Rows::Left k = Rows::left(shared.keys + warp_row * Rows::kStride);
  const typename Rows::Left v = Rows::left(shared.values + warp_row * Rows::kStride);
  int own[2];
  float4 sample[2];
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    own[row] = min(first_sample + warp_row + own_row() + 8 * row, a.samples - 1);
    sample[row] = make_float4(0, 0, 0, 0);
    if (kForm != BiasForm::none && call.bias.positions != nullptr) sample[row] = sample_of(call.bias, n, m, own[row]);
  }
  typename Rows::Sums dk{}, dv{};
  float dposition_y[2] = {0, 0}, dposition_x[2] = {0, 0};
  const float scale = a.scale * kLog2e;
  const int begin = part_begin(a.queries, query_part, call.query_parts);
  const int end = part_begin(a.queries, query_part + 1, call.query_parts);
  for (int first = begin; first < end; first += kTile) {
    const int count = min(kTile, end - first);
    __syncthreads();
    Rows::stage(a, call.q + a.row(n, a.queries, first, m), count, kTile, shared.q);
    Rows::stage(a, call.dmix + a.row(n, a.queries, first, m), count, kTile, shared.dmix);
    stage_places<kForm>(call.bias, first, count, shared.places);
    for (int i = static_cast<int>(threadIdx.x); i < kTile; i += kMmaThreads) {
      // Queries beyond the last have weights of zero.
      shared.lse[i] = i < count ? call.lse[a.query(n, m, first + i)] * kLog2e : INFINITY;
      shared.delta[i] = i < count ? call.delta[a.query(n, m, first + i)] : 0.0f;
    }
    __syncthreads();
    for (int from = 0; from < count; from += 16) {
      float s[2][4], product[2][4];
      Rows::products(k, shared.q + from * Rows::kStride, s);           // (6)
      Rows::products(v, shared.dmix + from * Rows::kStride, product);  // (17)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int place = from + c / 2 * 8 + own_column() + c % 2, i = first + min(place, count - 1);
        const float lse = shared.lse[place], delta = shared.delta[place];
        const Query query = staged_query<kForm>(shared.places, first, i - first);
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          float &at = s[c / 2][2 * row + c % 2], &da = product[c / 2][2 * row + c % 2];
          const BiasPoint bias = bias_point<kForm, true>(call.bias, shared.ring, m, own[row], sample[row], query);
          const float score = kForm == BiasForm::none ? at * scale : fmaf(at, scale, bias.value * kLog2e);
          const float keep = call.drops ? call.mask.factor(a.weight(n, m, i, own[row])) : 1.0f;
          const Weight w(fast_exp2(score - lse), da, delta, keep);
          da = w.dscore, at = w.kept;
          if (kForm != BiasForm::none) {
            dposition_y[row] = fmaf(w.dscore, bias.by_y, dposition_y[row]);  // (29), (30)
            dposition_x[row] = fmaf(w.dscore, bias.by_x, dposition_x[row]);
          }
        }
      }
      Rows::accumulate(s, shared.dmix + from * Rows::kStride, dv);     // (16)
      Rows::accumulate(product, shared.q + from * Rows::kStride, dk);  // (21)
    }
  }
  const std::int64_t keys = static_cast<std::int64_t>(a.images) * a.samples * a.channels;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const float by_y = row_sum(dposition_y[row]), by_x = row_sum(dposition_x[row]);
    const int j = first_sample + warp_row + own_row() + 8 * row;
    if (j >= a.samples) continue;
    const std::int64_t at = query_part * keys + a.row(n, a.samples, j, m);
    Rows::store_row(a, dk, 8 * row, a.scale, call.dk + at);
    Rows::store_row(a, dv, 8 * row, 1, call.dv + at);
    if (kForm == BiasForm::none || call.dpositions == nullptr || own_column() != 0) continue;
    const std::int64_t plane_at = (static_cast<std::int64_t>(query_part) * a.images + n) * a.heads + m;
    float* to = call.dpositions + (plane_at * a.samples + j) * 2;
    to[0] = by_y, to[1] = by_x;
  }
}

}  // namespace

void attend_queries_mma(BackwardCall<bfloat16>& call, const BiasInputs& inputs, const DAttentionBias& b) {
  const AttendSizes& a = call.a;
  dispatch_mma_channels(a.head_channels, [&]<int kChannels>() {
    const BiasForm form = inputs.form(QueryShared<kChannels, BiasForm::any>::bytes({}) + inputs.sums_bytes(b));
    const BiasGradientParts parts(inputs.bias(), form, b, a.images, a.heads, (a.queries + kMmaRows - 1) / kMmaRows);
    call.parts = parts.image_parts, call.chunks = parts.chunks, call.gradient = parts.gradient;
    dispatch_form(form, [&]<BiasForm kForm>() {
      const std::size_t bytes =
          QueryShared<kChannels, kForm>::bytes(call.gradient) + (kForm == BiasForm::window ? inputs.ring_bytes() : 0);
      launch("dattention_attend_backward", attend_queries_mma_kernel<kChannels, kForm>,
             Grid{static_cast<unsigned>(call.parts * a.heads * call.chunks), kMmaThreads, bytes}, call);
    });
    parts.fold(inputs.bias(), b, a.heads);
    if (parts.sweeps_table) attend_table(call, b);
  });
}

void attend_samples_mma(BackwardCall<bfloat16>& call, const BiasInputs& inputs) {
  const AttendSizes& a = call.a;
  const int blocks = (a.samples + kMmaRows - 1) / kMmaRows * a.images * a.heads * call.query_parts;
  dispatch_mma_channels(a.head_channels, [&]<int kChannels>() {
    const std::size_t bytes = SampleShared<kChannels, BiasForm::any>::bytes();
    dispatch_form(inputs.form(bytes), [&]<BiasForm kForm>() {
      launch("dattention_attend_backward", attend_samples_mma_kernel<kChannels, kForm>,
             Grid{static_cast<unsigned>(blocks), kMmaThreads,
                  bytes + (kForm == BiasForm::window ? inputs.ring_bytes() : 0)},
             call);
    });
  });
}

}  // namespace dattn::cuda
