// DAttention's scores, softmax and mix (6)-(9) in bfloat16 on tensor cores. A warp owns 16 queries; weights never leave
// its registers.
#include "cuda/dattention_mma.cuh"

namespace dattn::cuda {

namespace {

constexpr int kTile = 64, kTurn = 32;  // samples in shared memory, and between two looks at the maximum

template <int kChannels, BiasForm kForm>
struct Shapes {
  using Rows = MmaRows<kChannels>;
  Shared<bfloat16> queries, keys, values;
  Shared<float> ring;
  Shared<float4> samples;

  __device__ explicit Shapes(const DeviceBias& b) {
    DynamicShared shared;
    queries = shared.take<bfloat16>(kMmaRows * Rows::kStride);
    keys = shared.take<bfloat16>(kTile * Rows::kStride);
    values = shared.take<bfloat16>(kTile * Rows::kStride);
    if constexpr (kForm != BiasForm::none) samples = shared.take<float4>(kTile);
    if constexpr (kForm == BiasForm::window) ring = shared.take<float>(b.ring_size());
  }
  static std::size_t bytes() {
    return shared_bytes<bfloat16>(kMmaRows * Rows::kStride) + 2 * shared_bytes<bfloat16>(kTile * Rows::kStride) +
           shared_bytes<float4>(kTile);
  }
};

// The running softmax (7) and mix (9) of a thread's two rows.
template <int kChannels>
struct RunningMix {
  float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};  // the sums are of this thread's columns alone
  typename MmaRows<kChannels>::Sums mix{};

  // Raises the maxima to those of the scores, times `scale`, and scales what was summed before.
  __device__ __forceinline__ void raise(const float (&s)[kTurn / 16][2][4], float scale) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float peak = -INFINITY;
#pragma unroll
      for (int e = 0; e < kTurn / 4; ++e) peak = fmaxf(peak, s[e / 4][e / 2 % 2][2 * row + e % 2]);
      peak = fmaxf(most[row], row_max(peak) * scale);
      const float shrink = fast_exp2(most[row] - peak);
      most[row] = peak;
      sum[row] *= shrink;
#pragma unroll
      for (int out = 0; out < MmaRows<kChannels>::kOut; ++out) {
        mix.d[out][2 * row] *= shrink;
        mix.d[out][2 * row + 1] *= shrink;
      }
    }
  }
};

template <int kChannels, BiasForm kForm>
__global__ void __launch_bounds__(kMmaThreads, kChannels <= 16 && kForm != BiasForm::any ? 4 : 3)
    attend_forward_mma_kernel(ForwardCall<bfloat16> call) {
  using Rows = MmaRows<kChannels>;
  const AttendSizes& a = call.a;
  const Shapes<kChannels, kForm> shared(call.bias);
  const int blocks = (a.queries + kMmaRows - 1) / kMmaRows, plane = static_cast<int>(blockIdx.x) / blocks;
  const int n = plane / a.heads, m = plane % a.heads;
  const int first_query = (static_cast<int>(blockIdx.x) - plane * blocks) * kMmaRows;
  const int own[2] = {first_query + 16 * warp_index() + own_row(), first_query + 16 * warp_index() + own_row() + 8};
  const Query query[2] = {query_of(call.bias, min(own[0], a.queries - 1)),
                          query_of(call.bias, min(own[1], a.queries - 1))};
  Rows::stage(a, call.q + a.row(n, a.queries, first_query, m), min(kMmaRows, a.queries - first_query), kMmaRows,
              shared.queries);
  if constexpr (kForm == BiasForm::window) stage_ring(call.bias, m, shared.ring);
  __syncthreads();
  const typename Rows::Left q = Rows::left(shared.queries + 16 * warp_index() * Rows::kStride);
  RunningMix<kChannels> running;
  const float scale = a.scale * kLog2e;
  for (int first = 0; first < a.samples; first += kTile) {
    const int count = min(kTile, a.samples - first);
    __syncthreads();
    Rows::stage(a, call.k + a.row(n, a.samples, first, m), count, kTile, shared.keys);
    Rows::stage(a, call.v + a.row(n, a.samples, first, m), count, kTile, shared.values);
    stage_samples<kForm>(call.bias, n, m, first, count, shared.samples);
    __syncthreads();
    for (int turn = 0; turn < count; turn += kTurn) {
      float s[kTurn / 16][2][4];
#pragma unroll
      for (int u = 0; u < kTurn / 16; ++u) {
        Rows::products(q, shared.keys + (turn + 16 * u) * Rows::kStride, s[u]);  // (6)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int j = turn + 16 * u + c / 2 * 8 + own_column() + c % 2;
          const float4 sample = staged_sample<kForm>(call.bias, shared.samples, min(j, count - 1));
#pragma unroll
          for (int row = 0; row < 2; ++row) {
            float& score = s[u][c / 2][2 * row + c % 2];
            if constexpr (kForm != BiasForm::none) {
              const BiasPoint bias =
                  bias_point<kForm>(call.bias, shared.ring, m, first + min(j, count - 1), sample, query[row]);
              score = fmaf(score, scale, bias.value * kLog2e);
            }
            if (j >= count) score = -INFINITY;
          }
        }
      }
      const float factor = kForm == BiasForm::none ? scale : 1;
      running.raise(s, factor);
#pragma unroll
      for (int u = 0; u < kTurn / 16; ++u) {
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          const int row = e % 4 / 2;
          float& weight = s[u][e / 4][e % 4];
          weight = fast_exp2(fmaf(weight, factor, -running.most[row]));
          running.sum[row] += weight;
          if (call.drops) {  // (8)
            const int j = first + turn + 16 * u + e / 4 * 8 + own_column() + e % 2;
            weight *= call.mask.factor(a.weight(n, m, query[row].index, j));
          }
        }
        Rows::accumulate(s[u], shared.values + (turn + 16 * u) * Rows::kStride, running.mix);
      }
    }
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const float sum = row_sum(running.sum[row]);
    if (own[row] >= a.queries) continue;
    Rows::store_row(a, running.mix, 8 * row, 1 / sum, call.mix + a.row(n, a.queries, own[row], m));
    if (own_column() == 0) call.lse[a.query(n, m, own[row])] = (running.most[row] + log2f(sum)) * kLn2;
  }
}

}  // namespace

void attend_forward_mma(ForwardCall<bfloat16>& call, const BiasInputs& inputs) {
  const int blocks = (call.a.queries + kMmaRows - 1) / kMmaRows * call.a.images * call.a.heads;
  dispatch_mma_channels(call.a.head_channels, [&]<int kChannels>() {
    const std::size_t bytes = Shapes<kChannels, BiasForm::any>::bytes();
    dispatch_form(inputs.form(bytes), [&]<BiasForm kForm>() {
      launch("dattention_attend_forward", attend_forward_mma_kernel<kChannels, kForm>,
             Grid{static_cast<unsigned>(blocks), kMmaThreads,
                  bytes + (kForm == BiasForm::window ? inputs.ring_bytes() : 0)},
             call);
    });
  });
}

}  // namespace dattn::cuda
