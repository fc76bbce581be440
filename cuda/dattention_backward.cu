// The gradients of DAttention's scores, softmax and mix (16)-(21), and of the bias (27)-(30), on CUDA cores: device
// twin of the backward kernel of layers/dattention_attend_cpu.cpp. Two sweeps make the scores again from the saved
// logarithms of the row sums. In the first a team owns a query: it gives dq, and the gradient of what the bias is made
// of. In the second a team owns a sample: dk, dv and the samples' positions. Every sum has one owner, or parts in a
// fixed order.
#include "cuda/dattention_attend.cuh"
#include "cuda/kernels.h"

namespace dattn::cuda {

namespace {

// --- first sweep: queries ---

template <BiasForm kForm>
struct QueryShared {
  Shared<float> keys, values, ring, dscores, sums;
  Shared<float4> samples;

  template <typename S>
  __device__ explicit QueryShared(const BackwardCall<S>& call) {
    DynamicShared shared;
    keys = shared.take<float>(call.tile * call.a.row_channels);
    values = shared.take<float>(call.tile * call.a.row_channels);
    if constexpr (kForm != BiasForm::none) {
      samples = shared.take<float4>(call.tile);
      dscores = shared.take<float>(call.tile * kMostThreads);
      sums = shared.take<float>(call.gradient.shared_floats);
    }
    if constexpr (kForm == BiasForm::window) ring = shared.take<float>(call.bias.ring_size());
  }
  static std::size_t bytes(const AttendSizes& a, int tile, const BiasGradient& gradient) {
    return 2 * shared_bytes<float>(tile * a.row_channels) + shared_bytes<float4>(tile) +
           shared_bytes<float>(tile * kMostThreads) + shared_bytes<float>(gradient.shared_floats);
  }
};

// One block's queries of one image: dq, and the gradient of the bias added to the block's sums.
template <typename S, int kChannels, BiasForm kForm>
__device__ void query_tile(const BackwardCall<S>& call, const QueryShared<kForm>& shared, int n, int m, int first_query,
                           Shared<float> sums) {
  const AttendSizes& a = call.a;
  const int rows = static_cast<int>(blockDim.x) / a.team, own = static_cast<int>(threadIdx.x) / a.team;
  const int i = first_query + own, part = static_cast<int>(threadIdx.x) % a.team * kChannels;
  const bool valid = i < a.queries;
  const Query query = query_of(call.bias, min(i, a.queries - 1));
  const std::int64_t at = a.row(n, a.queries, query.index, m);
  const Floats<kChannels> q = own_channels<kChannels>(a, call.q + at, true, a.scale * kLog2e);
  const Floats<kChannels> dmix = own_channels<kChannels>(a, call.dmix + at, true, 1);
  float delta = 0;
  {
    const Floats<kChannels> mix = own_channels<kChannels>(a, call.mix + at, true, 1);
#pragma unroll
    for (int c = 0; c < kChannels; ++c) delta = fmaf(mix[c], dmix[c], delta);
    delta = team_sum(delta, a.team);  // (18)
  }
  // Rows beyond the last query have weights of zero.
  const float lse = valid ? call.lse[a.query(n, m, query.index)] * kLog2e : INFINITY;
  if (valid && part == 0) call.delta[a.query(n, m, i)] = delta;
  Floats<kChannels> dq{};
  for (int first = 0; first < a.samples; first += call.tile) {
    const int count = min(call.tile, a.samples - first);
    __syncthreads();
    stage_rows(a, call.k + a.row(n, a.samples, first, m), count, call.tile, 1, shared.keys);
    stage_rows(a, call.v + a.row(n, a.samples, first, m), count, call.tile, 1, shared.values);
    stage_samples<kForm>(call.bias, n, m, first, count, shared.samples);
    __syncthreads();
#pragma unroll(kChannels < 32 ? 2 : 1)  // as far as registers go
    for (int j = 0; j < count; ++j) {
      const int row = j * a.row_channels + part;
      float score = team_sum(dot(q, shared.keys + row), a.team);
      const float product = team_sum(dot(dmix, shared.values + row), a.team);
      const BiasPoint bias = bias_point<kForm>(call.bias, shared.ring, m, first + j,
                                               staged_sample<kForm>(call.bias, shared.samples, j), query);
      if (kForm != BiasForm::none) score = fmaf(bias.value, kLog2e, score);
      const float keep = call.drops ? call.mask.factor(a.weight(n, m, query.index, first + j)) : 1.0f;
      const Weight w(exp2f(score - lse), product, delta, keep);
      axpy(w.dscore, shared.keys + row, dq);  // (20)
      if (kForm != BiasForm::none && call.gradient.wanted && part == 0) shared.dscores[j * rows + own] = w.dscore;
    }
    if (kForm != BiasForm::none && call.gradient.wanted) {
      __syncthreads();
      add_bias_gradient<kForm>(call.bias, call.gradient,
                               ScoreTile{n, m, first_query, min(rows, a.queries - first_query), first, count, rows},
                               shared.dscores, shared.samples, sums);
    }
  }
  if (valid) store_channels(a, dq, a.scale, call.dq + at);
}

// Blocks of a multiprocessor at a time, as many as leave every thread the registers that it needs.
template <int kChannels, BiasForm kForm>
constexpr int kBlocks = kForm == BiasForm::any || kChannels > 16 ? 2
                        : kChannels == 16                        ? 3
                                                                 : 4;

// A block has a head, some images, and some of the queries: task (part * M + m) * chunks + chunk.
template <typename S, int kChannels, BiasForm kForm>
__global__ void __launch_bounds__(kMostThreads, kBlocks<kChannels, kForm>) attend_queries_kernel(BackwardCall<S> call) {
  const AttendSizes& a = call.a;
  const QueryShared<kForm> shared(call);
  const int rows = static_cast<int>(blockDim.x) / a.team, task = static_cast<int>(blockIdx.x);
  const int chunk = task % call.chunks, m = task / call.chunks % a.heads, part = task / call.chunks / a.heads;
  const int tiles = (a.queries + rows - 1) / rows;
  if constexpr (kForm == BiasForm::window) stage_ring(call.bias, m, shared.ring);
  if constexpr (kForm != BiasForm::none) begin_bias_gradient(call.gradient, shared.sums);
  for (int n = part_begin(a.images, part, call.parts); n < part_begin(a.images, part + 1, call.parts); ++n) {
    for (int t = part_begin(tiles, chunk, call.chunks); t < part_begin(tiles, chunk + 1, call.chunks); ++t) {
      query_tile<S, kChannels, kForm>(call, shared, n, m, t * rows, shared.sums);
    }
  }
  if constexpr (kForm != BiasForm::none) end_bias_gradient(call.gradient, shared.sums);
}

// --- second sweep: samples ---

template <BiasForm kForm>
struct SampleShared {
  Shared<float> q, dmix, lse, delta, ring;
  Shared<int2> places;

  template <typename S>
  __device__ explicit SampleShared(const BackwardCall<S>& call) {
    DynamicShared shared;
    q = shared.take<float>(call.tile * call.a.row_channels);
    dmix = shared.take<float>(call.tile * call.a.row_channels);
    lse = shared.take<float>(call.tile);
    delta = shared.take<float>(call.tile);
    if constexpr (kForm != BiasForm::none) places = shared.take<int2>(call.tile);
    if constexpr (kForm == BiasForm::window) ring = shared.take<float>(call.bias.ring_size());
  }
  static std::size_t bytes(const AttendSizes& a, int tile) {
    return 2 * shared_bytes<float>(tile * a.row_channels) + 2 * shared_bytes<float>(tile) + shared_bytes<int2>(tile);
  }
};

template <typename S, int kChannels, BiasForm kForm>
__global__ void __launch_bounds__(kMostThreads, kBlocks<kChannels, kForm>) attend_samples_kernel(BackwardCall<S> call) {
  [[maybe_unused]] constexpr int kUnroll = kForm == BiasForm::any && kChannels > 16 ? 1 : 2;  // as registers allow
  const AttendSizes& a = call.a;
  const SampleShared<kForm> shared(call);
  const int rows = static_cast<int>(blockDim.x) / a.team, blocks = (a.samples + rows - 1) / rows;
  const int turn = static_cast<int>(blockIdx.x) / blocks, plane = turn / call.query_parts, n = plane / a.heads,
            m = plane % a.heads, query_part = turn % call.query_parts;
  const int own = (static_cast<int>(blockIdx.x) - turn * blocks) * rows + static_cast<int>(threadIdx.x) / a.team;
  const int part = static_cast<int>(threadIdx.x) % a.team * kChannels, j = min(own, a.samples - 1);
  const std::int64_t at = a.row(n, a.samples, j, m);
  const Floats<kChannels> k = own_channels<kChannels>(a, call.k + at, true, 1);
  const Floats<kChannels> v = own_channels<kChannels>(a, call.v + at, true, 1);
  Floats<kChannels> dk{}, dv{};
  float4 sample = make_float4(0, 0, 0, 0);
  if constexpr (kForm != BiasForm::none) {
    if (call.bias.positions != nullptr) sample = sample_of(call.bias, n, m, j);
  }
  float dposition_y = 0, dposition_x = 0;
  if constexpr (kForm == BiasForm::window) stage_ring(call.bias, m, shared.ring);
  const int begin = part_begin(a.queries, query_part, call.query_parts);
  const int end = part_begin(a.queries, query_part + 1, call.query_parts);
  for (int first = begin; first < end; first += call.tile) {
    const int count = min(call.tile, end - first);
    __syncthreads();
    stage_rows(a, call.q + a.row(n, a.queries, first, m), count, call.tile, a.scale * kLog2e, shared.q);
    stage_rows(a, call.dmix + a.row(n, a.queries, first, m), count, call.tile, 1, shared.dmix);
    stage_places<kForm>(call.bias, first, count, shared.places);
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
      shared.lse[i] = call.lse[a.query(n, m, first + i)] * kLog2e;
      shared.delta[i] = call.delta[a.query(n, m, first + i)];
    }
    __syncthreads();
#pragma unroll kUnroll
    for (int i = 0; i < count; ++i) {
      const int row = i * a.row_channels + part;
      float score = team_sum(dot(k, shared.q + row), a.team);
      const float product = team_sum(dot(v, shared.dmix + row), a.team);
      const BiasPoint bias =
          bias_point<kForm, true>(call.bias, shared.ring, m, j, sample, staged_query<kForm>(shared.places, first, i));
      if (kForm != BiasForm::none) score = fmaf(bias.value, kLog2e, score);
      const float keep = call.drops ? call.mask.factor(a.weight(n, m, first + i, j)) : 1.0f;
      const Weight w(exp2f(score - shared.lse[i]), product, shared.delta[i], keep);
      axpy(w.kept, shared.dmix + row, dv);  // (16)
      axpy(w.dscore, shared.q + row, dk);   // (21)
      if (kForm != BiasForm::none) {
        dposition_y = fmaf(w.dscore, bias.by_y, dposition_y);  // (29), (30)
        dposition_x = fmaf(w.dscore, bias.by_x, dposition_x);
      }
    }
  }
  if (own >= a.samples) return;
  const std::int64_t keys = static_cast<std::int64_t>(a.images) * a.samples * a.channels;
  store_channels(a, dk, kLn2, call.dk + query_part * keys + at);  // q came with the factor 1 / ln 2
  store_channels(a, dv, 1, call.dv + query_part * keys + at);
  if (kForm != BiasForm::none && call.dpositions != nullptr && part == 0) {
    const std::int64_t plane_at = (static_cast<std::int64_t>(query_part) * a.images + n) * a.heads + m;
    float* to = call.dpositions + (plane_at * a.samples + j) * 2;
    to[0] = dposition_y, to[1] = dposition_x;
  }
}

// --- sums of parts ---

struct FoldParts {
  const float* parts;
  std::int64_t n;
  int count;
  float* sum;
  __device__ void operator()(std::int64_t i) const {
    float total = 0;
    for (int part = 0; part < count; ++part) total += parts[part * n + i];
    sum[i] = total;
  }
};

// dpositions [N,K,G,2] from the parts [query_parts][N,M,K,2] of the group's heads.
struct FoldPositions {
  const float* parts;
  int images, heads, samples, groups, count;
  float* dpositions;
  __device__ void operator()(std::int64_t i) const {
    const auto axis = static_cast<int>(i % 2), group = static_cast<int>(i / 2 % groups);
    const auto j = static_cast<int>(i / 2 / groups % samples), n = static_cast<int>(i / 2 / groups / samples);
    const int per_group = heads / groups;
    float sum = 0;
    for (int part = 0; part < count; ++part) {
      for (int m = group * per_group; m < (group + 1) * per_group; ++m) {
        const std::int64_t plane = (static_cast<std::int64_t>(part) * images + n) * heads + m;
        sum += parts[(plane * samples + j) * 2 + axis];
      }
    }
    dpositions[i] = sum;
  }
};

// Memory that a backward call needs beside its tensors.
struct Parts {
  Scratch<float> delta, dk, dv, dpositions;

  Parts(const AttendSizes& a, int query_parts, bool moves)
      : delta(static_cast<std::int64_t>(a.images) * a.heads * a.queries),
        dk(query_parts > 1 ? query_parts * keys(a) : 0),
        dv(query_parts > 1 ? query_parts * keys(a) : 0),
        dpositions(moves ? std::int64_t{2} * query_parts * a.images * a.heads * a.samples : 0) {}
  static std::int64_t keys(const AttendSizes& a) {
    return static_cast<std::int64_t>(a.images) * a.samples * a.channels;
  }
};

// Few images and few samples leave most of a device idle, so that the second sweep's queries are cut into parts.
int query_parts(const AttendSizes& a) {
  const std::int64_t threads = static_cast<std::int64_t>(a.images) * a.heads * a.samples;
  constexpr std::int64_t kWanted = 1 << 16, kLeastQueries = 256;
  return static_cast<int>(std::clamp<std::int64_t>(kWanted / std::max<std::int64_t>(threads, 1), 1,
                                                   std::max<std::int64_t>(a.queries / kLeastQueries, 1)));
}

template <typename S, int kChannels>
void sweep_queries(BackwardCall<S>& call, const BiasInputs& inputs, const DAttentionBias& b) {
  const AttendSizes& a = call.a;
  call.tile = tile_rows(a.row_channels, 32);
  const int threads = block_threads(a.queries, a.team, std::int64_t{a.images} * a.heads), rows = threads / a.team;
  const int tiles = (a.queries + rows - 1) / rows;
  const BiasForm form = inputs.form(QueryShared<BiasForm::any>::bytes(a, call.tile, {}) + inputs.sums_bytes(b));
  const BiasGradientParts parts(inputs.bias(), form, b, a.images, a.heads, tiles);
  call.parts = parts.image_parts, call.chunks = parts.chunks, call.gradient = parts.gradient;
  dispatch_form(form, [&]<BiasForm kForm>() {
    std::size_t bytes = QueryShared<kForm>::bytes(a, call.tile, call.gradient);
    if (kForm == BiasForm::window) bytes += inputs.ring_bytes();
    launch("dattention_attend_backward", attend_queries_kernel<S, kChannels, kForm>,
           Grid{static_cast<unsigned>(call.parts * a.heads * call.chunks), static_cast<unsigned>(threads), bytes},
           call);
  });
  parts.fold(inputs.bias(), b, a.heads);
  if (parts.sweeps_table) attend_table(call, b);
}

template <typename S, int kChannels>
void sweep_samples(BackwardCall<S>& call, const BiasInputs& inputs) {
  const AttendSizes& a = call.a;
  call.tile = tile_rows(a.row_channels, 64);
  const int planes = a.images * a.heads * call.query_parts, threads = block_threads(a.samples, a.team, planes);
  const int rows = threads / a.team, blocks = (a.samples + rows - 1) / rows * planes;
  const std::size_t bytes = SampleShared<BiasForm::any>::bytes(a, call.tile);
  dispatch_form(inputs.form(bytes), [&]<BiasForm kForm>() {
    launch("dattention_attend_backward", attend_samples_kernel<S, kChannels, kForm>,
           Grid{static_cast<unsigned>(blocks), static_cast<unsigned>(threads),
                bytes + (kForm == BiasForm::window ? inputs.ring_bytes() : 0)},
           call);
  });
}

}  // namespace

void dattention_attend_backward_cuda(const Tensor& dmix, const Tensor& q, const Tensor& k, const Tensor& v,
                                     const Tensor& positions, const DAttentionBias& bias, const DropoutMask& mask,
                                     const Tensor& mix, const Tensor& lse, Tensor& dq, Tensor& dk, Tensor& dv,
                                     Tensor& dpositions) {
  const AttendSizes sizes(q, k, lse, all_aligned({dmix, q, k, v, mix, dq, dk, dv}));
  const BiasInputs inputs(q, k, positions, bias, sizes.heads);
  const bool moves = bias.moves() && dpositions.defined();
  const int count = query_parts(sizes);
  Parts parts(sizes, count, moves);
  dispatch_storage("dattention", q.dtype(), [&]<typename S>() {
    BackwardCall<S> call{sizes,
                         inputs.bias(),
                         DeviceDropoutMask(mask),
                         mask.drops(),
                         0,
                         1,
                         1,
                         count,
                         dmix.data<S>(),
                         q.data<S>(),
                         k.data<S>(),
                         v.data<S>(),
                         mix.data<float>(),
                         lse.data<float>(),
                         parts.delta.data(),
                         dq.data<S>(),
                         count > 1 ? parts.dk.data() : dk.data<float>(),
                         count > 1 ? parts.dv.data() : dv.data<float>(),
                         moves ? parts.dpositions.data() : nullptr,
                         {}};
    if constexpr (std::is_same_v<S, bfloat16>) {
      if (sizes.head_channels <= kMostMmaChannels && device().has_bfloat16_mma()) {
        attend_queries_mma(call, inputs, bias);
        return attend_samples_mma(call, inputs);
      }
    }
    dispatch_channels<32>(sizes.head_channels, [&]<int kChannels>() {
      choose_team(call.a, kChannels);
      sweep_queries<S, kChannels>(call, inputs, bias);
      sweep_samples<S, kChannels>(call, inputs);
    });
  });
  if (count > 1) {
    for_each_item("dattention_fold", dk.elements(), FoldParts{parts.dk.data(), dk.elements(), count, dk.data<float>()});
    for_each_item("dattention_fold", dv.elements(), FoldParts{parts.dv.data(), dv.elements(), count, dv.data<float>()});
  }
  if (!dpositions.defined()) return;
  if (!bias.moves()) return dpositions.fill(0);
  for_each_item("dattention_fold", dpositions.elements(),
                FoldPositions{parts.dpositions.data(), sizes.images, sizes.heads, sizes.samples, inputs.bias().groups,
                              count, dpositions.data<float>()});
}

}  // namespace dattn::cuda
