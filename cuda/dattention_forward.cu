// DAttention's scores, softmax and mix (6)-(9) on CUDA cores: device twin of the forward kernel of
// layers/dattention_attend_cpu.cpp. The softmax runs along with the samples; scores are never kept.
#include "cuda/dattention_attend.cuh"
#include "cuda/kernels.h"

namespace dattn::cuda {

namespace {

constexpr int kTurn = 4;  // samples between two looks at the maximum

// Keys, values and samples of a tile, and the table of the relative bias.
template <BiasForm kForm>
struct ForwardShared {
  Shared<float> keys, values, ring;
  Shared<float4> samples;

  __device__ ForwardShared(const AttendSizes& a, const DeviceBias& b, int tile) {
    DynamicShared shared;
    keys = shared.take<float>(tile * a.row_channels);
    values = shared.take<float>(tile * a.row_channels);
    if constexpr (kForm != BiasForm::none) samples = shared.take<float4>(tile);
    if constexpr (kForm == BiasForm::window) ring = shared.take<float>(b.ring_size());
  }
  static std::size_t bytes(const AttendSizes& a, int tile) {
    return 2 * shared_bytes<float>(tile * a.row_channels) + shared_bytes<float4>(tile);
  }
};

// A row's running softmax (7) and mix (9).
template <int kChannels>
struct RunningMix {
  float most = -INFINITY, sum = 0;
  Floats<kChannels> mix{};

  // Adds samples of scores s, whose weights are multiplied by `keep` in the mix alone (8).
  __device__ __forceinline__ void add(const float (&s)[kTurn], const float (&keep)[kTurn], Shared<const float> values,
                                      int row_channels) {
    float peak = most;
#pragma unroll
    for (int u = 0; u < kTurn; ++u) peak = fmaxf(peak, s[u]);
    const float shrink = exp2f(most - peak);
    most = peak;
    sum *= shrink;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) mix[c] *= shrink;
#pragma unroll
    for (int u = 0; u < kTurn; ++u) {
      const float weight = exp2f(s[u] - peak);
      sum += weight;
      axpy(weight * keep[u], values + u * row_channels, mix);
    }
  }
};

template <typename S, int kChannels, BiasForm kForm>
__global__ void __launch_bounds__(kMostThreads, kChannels <= 16 && kForm != BiasForm::any ? 4 : 2)
    attend_forward_kernel(ForwardCall<S> call) {
  const AttendSizes& a = call.a;
  const ForwardShared<kForm> shared(a, call.bias, call.tile);
  const int rows = static_cast<int>(blockDim.x) / a.team, blocks = (a.queries + rows - 1) / rows;
  const int plane = static_cast<int>(blockIdx.x) / blocks, n = plane / a.heads, m = plane % a.heads;
  const int i = (static_cast<int>(blockIdx.x) - plane * blocks) * rows + static_cast<int>(threadIdx.x) / a.team;
  const int part = static_cast<int>(threadIdx.x) % a.team * kChannels;
  const Query query = query_of(call.bias, min(i, a.queries - 1));
  const Floats<kChannels> q =
      own_channels<kChannels>(a, call.q + a.row(n, a.queries, query.index, m), true, a.scale * kLog2e);
  RunningMix<kChannels> running;
  if constexpr (kForm == BiasForm::window) stage_ring(call.bias, m, shared.ring);
  for (int first = 0; first < a.samples; first += call.tile) {
    const int count = min(call.tile, a.samples - first);
    __syncthreads();
    stage_rows(a, call.k + a.row(n, a.samples, first, m), count, call.tile, 1, shared.keys);
    stage_rows(a, call.v + a.row(n, a.samples, first, m), count, call.tile, 1, shared.values);
    stage_samples<kForm>(call.bias, n, m, first, count, shared.samples);
    __syncthreads();
    for (int j = 0; j < count; j += kTurn) {
      float s[kTurn], keep[kTurn];
#pragma unroll
      for (int u = 0; u < kTurn; ++u) {
        const int sample = min(j + u, count - 1);
        s[u] = team_sum(dot(q, shared.keys + (j + u) * a.row_channels + part), a.team);  // (6)
        const BiasPoint bias = bias_point<kForm>(call.bias, shared.ring, m, first + sample,
                                                 staged_sample<kForm>(call.bias, shared.samples, sample), query);
        if (kForm != BiasForm::none) s[u] = fmaf(bias.value, kLog2e, s[u]);
        if (j + u >= count) s[u] = -INFINITY;
        keep[u] = call.drops ? call.mask.factor(a.weight(n, m, query.index, first + sample)) : 1.0f;
      }
      running.add(s, keep, shared.values + j * a.row_channels + part, a.row_channels);
    }
  }
  if (i >= a.queries) return;
  store_channels(a, running.mix, 1 / running.sum, call.mix + a.row(n, a.queries, i, m));
  if (part == 0) call.lse[a.query(n, m, i)] = (running.most + log2f(running.sum)) * kLn2;
}

template <typename S, int kChannels>
void attend_forward(ForwardCall<S>& call, const BiasInputs& inputs) {
  AttendSizes& a = call.a;
  choose_team(a, kChannels);
  call.tile = tile_rows(a.row_channels, 64);
  const std::size_t bytes = ForwardShared<BiasForm::any>::bytes(a, call.tile);
  const int planes = a.images * a.heads, threads = block_threads(a.queries, a.team, planes);
  const int rows = threads / a.team, blocks = (a.queries + rows - 1) / rows * planes;
  dispatch_form(inputs.form(bytes), [&]<BiasForm kForm>() {
    launch("dattention_attend_forward", attend_forward_kernel<S, kChannels, kForm>,
           Grid{static_cast<unsigned>(blocks), static_cast<unsigned>(threads),
                bytes + (kForm == BiasForm::window ? inputs.ring_bytes() : 0)},
           call);
  });
}

}  // namespace

void dattention_attend_forward_cuda(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& positions,
                                    const DAttentionBias& bias, const DropoutMask& mask, Tensor& mix, Tensor& lse) {
  const AttendSizes sizes(q, k, lse, all_aligned({q, k, v, mix}));
  const BiasInputs inputs(q, k, positions, bias, sizes.heads);
  dispatch_storage("dattention", q.dtype(), [&]<typename S>() {
    ForwardCall<S> call{sizes,       inputs.bias(), DeviceDropoutMask(mask), mask.drops(),     0, q.data<S>(),
                        k.data<S>(), v.data<S>(),   mix.data<float>(),       lse.data<float>()};
    if constexpr (std::is_same_v<S, bfloat16>) {
      if (sizes.head_channels <= kMostMmaChannels && device().has_bfloat16_mma())
        return attend_forward_mma(call, inputs);
    }
    dispatch_channels<64>(sizes.head_channels, [&]<int kChannels>() { attend_forward<S, kChannels>(call, inputs); });
  });
}

}  // namespace dattn::cuda
