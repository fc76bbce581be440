// What DAttention's attend kernels on CUDA cores share: how a call is cut into blocks and threads, and how rows of one
// head reach registers and shared memory.
//
// A team of threads owns a row, a query or a sample, and holds its vectors in registers, each thread kChannels of them:
// teams are as small as head sizes allow, mostly one thread. The other side comes through shared memory, tile by tile,
// and every thread of a block reads the same numbers of it. Scores are in units of ln 2, so that weights are powers
// of 2.
#pragma once

#include <algorithm>
#include <cmath>

#include "cuda/dattention_bias_gradient.cuh"
#include "cuda/dropout.cuh"

namespace dattn::cuda {

constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.69314718055994531f;
constexpr int kMostThreads = 128;  // of a block

/// Sizes of a call.
struct AttendSizes {
  int images, queries, samples, channels, heads, head_channels;
  float scale;       // 1 / sqrt(D)
  bool fours;        // whether rows of a head can be read four channels at a time,
  bool eights;       // or eight
  int team;          // threads of a row: a power of two
  int row_channels;  // of a row in shared memory, D filled up with zeros: team * kChannels

  AttendSizes(const Tensor& q, const Tensor& k, const Tensor& lse, bool aligned)
      : images(static_cast<int>(q.size(0))),
        queries(static_cast<int>(q.size(1) * q.size(2))),
        samples(static_cast<int>(k.size(1) * k.size(2))),
        channels(static_cast<int>(q.size(3))),
        heads(static_cast<int>(lse.size(1))),
        head_channels(channels / heads),
        scale(1 / std::sqrt(static_cast<float>(head_channels))),
        fours(aligned && head_channels % 4 == 0),
        eights(aligned && head_channels % 8 == 0),
        team(1),
        row_channels(0) {}

  /// Offset of a head's channels in a row of [N, rows, C].
  __host__ __device__ std::int64_t row(int image, int rows, int i, int head) const {
    return (static_cast<std::int64_t>(image) * rows + i) * channels + head * head_channels;
  }
  /// Number of a query in [N,M,Q].
  __host__ __device__ std::int64_t query(int image, int head, int i) const {
    return (static_cast<std::int64_t>(image) * heads + head) * queries + i;
  }
  /// Number of a weight in the dropout mask.
  __device__ std::int64_t weight(int image, int head, int i, int j) const {
    return ((static_cast<std::int64_t>(image) * heads + head) * samples + j) * queries + i;
  }
};

/// Whether all tensors begin where whole vectors can be read.
inline bool all_aligned(std::initializer_list<Tensor> tensors) {
  return std::all_of(tensors.begin(), tensors.end(),
                     [](const Tensor& t) { return reinterpret_cast<std::uintptr_t>(t.raw()) % 16 == 0; });
}

/// Chooses the team for threads of `channels` channels.
inline void choose_team(AttendSizes& a, int channels) {
  while (a.team * channels < a.head_channels) a.team *= 2;
  a.row_channels = a.team * channels;
  check(a.team <= kWarpThreads, "dattention: heads of {} channels are more than the {} of cuda", a.head_channels,
        kWarpThreads * channels);
}

/// Calls f.operator()<kChannels>() with the channels of a thread for heads of D channels, at most kMost.
template <int kMost, typename F>
void dispatch_channels(int head_channels, F&& f) {
  if (head_channels <= 8) return f.template operator()<8>();
  if (head_channels <= 16) return f.template operator()<16>();
  if (head_channels <= 32 || kMost == 32) return f.template operator()<32>();
  f.template operator()<kMost>();
}

template <typename F>
void dispatch_form(BiasForm form, F&& f) {
  switch (form) {
    case BiasForm::none:
      return f.template operator()<BiasForm::none>();
    case BiasForm::window:
      return f.template operator()<BiasForm::window>();
    case BiasForm::any:
      return f.template operator()<BiasForm::any>();
  }
}

/// Threads of a block whose teams share out `rows` rows `times` times: smaller blocks where there is little to do.
inline int block_threads(int rows, int team, std::int64_t times) {
  const auto needed = [&](int threads) { return (static_cast<std::int64_t>(rows) * team + threads - 1) / threads; };
  int threads = kMostThreads;
  while (threads > kWarpThreads &&
         (static_cast<std::int64_t>(rows) * team <= threads / 2 || needed(threads) * times < 256)) {
    threads /= 2;
  }
  return threads;
}

/// Rows of a tile in shared memory whose two vectors take at most 32 KiB; a multiple of four.
inline int tile_rows(int row_channels, int most) { return std::clamp(4096 / row_channels / 4 * 4, 4, most); }

/// This thread's channels of a row in global memory, times a factor; zeros where the row or the channels end.
template <int kChannels, typename S>
__device__ __forceinline__ Floats<kChannels> own_channels(const AttendSizes& a, const S* row, bool valid,
                                                          float factor) {
  Floats<kChannels> x;
  const int first = static_cast<int>(threadIdx.x) % a.team * kChannels;
#pragma unroll
  for (int c = 0; c < kChannels; c += 4) {
    Floats<4> four{};
    if (valid && a.fours) {
      if (first + c < a.head_channels) four = load<4>(row + first + c);
    } else if (valid) {
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        if (first + c + v < a.head_channels) four[v] = load(row + first + c + v);
      }
    }
#pragma unroll
    for (int v = 0; v < 4; ++v) x[c + v] = factor * four[v];
  }
  return x;
}

/// Writes them to a row, times a factor.
template <int kChannels, typename S>
__device__ __forceinline__ void store_channels(const AttendSizes& a, const Floats<kChannels>& x, float factor, S* row) {
  const int first = static_cast<int>(threadIdx.x) % a.team * kChannels;
#pragma unroll
  for (int c = 0; c < kChannels; c += 4) {
    Floats<4> four;
#pragma unroll
    for (int v = 0; v < 4; ++v) four[v] = factor * x[c + v];
    if (a.fours) {
      if (first + c < a.head_channels) store<4>(row + first + c, four);
    } else {
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        if (first + c + v < a.head_channels) store(row + first + c + v, four[v]);
      }
    }
  }
}

/// Copies `count` rows of one head, `from` being the first, to shared memory [rows, row_channels]; zeros beyond.
template <typename S>
__device__ __forceinline__ void stage_rows(const AttendSizes& a, const S* from, int count, int rows, float factor,
                                           Shared<float> to) {
  const int fours = a.row_channels / 4;  // a power of two
  for (int i = static_cast<int>(threadIdx.x); i < rows * fours; i += static_cast<int>(blockDim.x)) {
    const int row = i / fours, c = i % fours * 4;
    const S* at = from + static_cast<std::int64_t>(row) * a.channels + c;
    Floats<4> four{};
    if (row < count && a.fours) {
      if (c < a.head_channels) four = load<4>(at);
    } else if (row < count) {
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        if (c + v < a.head_channels) four[v] = load(at + v);
      }
    }
#pragma unroll
    for (int v = 0; v < 4; ++v) four[v] *= factor;
    store<4>(to + 4 * i, four);
  }
}

/// What the biases of samples [first, first + count) share.
template <BiasForm kForm>
__device__ __forceinline__ void stage_samples(const DeviceBias& b, int image, int head, int first, int count,
                                              Shared<float4> to) {
  if constexpr (kForm != BiasForm::none) {
    if (b.positions == nullptr) return;
    for (int j = static_cast<int>(threadIdx.x); j < count; j += static_cast<int>(blockDim.x)) {
      to[j] = sample_of(b, image, head, first + j);
    }
  }
}

/// Element j of what stage_samples has written.
template <BiasForm kForm>
__device__ __forceinline__ float4 staged_sample(const DeviceBias& b, Shared<const float4> samples, int j) {
  if (kForm == BiasForm::none || b.positions == nullptr) return make_float4(0, 0, 0, 0);
  return samples[j];
}

/// Places (y, x) on the map of queries [first, first + count).
template <BiasForm kForm>
__device__ __forceinline__ void stage_places(const DeviceBias& b, int first, int count, Shared<int2> to) {
  if constexpr (kForm != BiasForm::none) {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
      const Query query = query_of(b, first + i);
      to[i] = make_int2(query.y, query.x);
    }
  }
}

/// Query first + i, whose place stage_places has written.
template <BiasForm kForm>
__device__ __forceinline__ Query staged_query(Shared<const int2> places, int first, int i) {
  if (kForm == BiasForm::none) return {first + i, 0, 0};
  const int2 place = places[i];
  return {first + i, place.x, place.y};
}

/// Product of a thread's channels with those of a row in shared memory, summed over the team.
template <int kChannels>
__device__ __forceinline__ float dot(const Floats<kChannels>& x, Shared<const float> row) {
  float sum = 0;
#pragma unroll
  for (int c = 0; c < kChannels; c += 4) {
    const Floats<4> y = load<4>(row + c);
#pragma unroll
    for (int v = 0; v < 4; ++v) sum = fmaf(x[c + v], y[v], sum);
  }
  return sum;
}
/// x += factor * row
template <int kChannels>
__device__ __forceinline__ void axpy(float factor, Shared<const float> row, Floats<kChannels>& x) {
#pragma unroll
  for (int c = 0; c < kChannels; c += 4) {
    const Floats<4> y = load<4>(row + c);
#pragma unroll
    for (int v = 0; v < 4; ++v) x[c + v] = fmaf(factor, y[v], x[c + v]);
  }
}
__device__ __forceinline__ float team_sum(float x, int team) {
  for (int flip = 1; flip < team; flip *= 2) x += __shfl_xor_sync(kFullWarp, x, flip);
  return x;
}

/// The weight of one query and sample (7) times what dropout keeps of it (8), and the gradient of its score (19), from
/// the weight and da / mu (17).
struct Weight {
  float kept, dscore;
  __device__ __forceinline__ Weight(float weight, float product, float delta, float keep)
      : kept(keep * weight), dscore(weight * (keep * product - delta)) {}
};

// --- calls ---

template <typename S>
struct ForwardCall {
  AttendSizes a;
  DeviceBias bias;
  DeviceDropoutMask mask;
  bool drops;
  int tile;  // rows of the other side in shared memory
  const S *q, *k, *v;
  float *mix, *lse;
};

template <typename S>
struct BackwardCall {
  AttendSizes a;
  DeviceBias bias;
  DeviceDropoutMask mask;
  bool drops;
  int tile;           // rows of the other side in shared memory
  int parts, chunks;  // what the first sweep's blocks share out: images, and queries of one
  int query_parts;    // of the second sweep
  const S *dmix, *q, *k, *v;
  const float *mix, *lse;
  float* delta;  // [N,M,Q]
  S* dq;
  float *dk, *dv;     // [query_parts][N,K,C]
  float* dpositions;  // [query_parts][N,M,K,2], or null
  BiasGradient gradient;
};

/// Part i of `all` things, cut into `count`: where it begins.
__device__ inline int part_begin(int all, int i, int count) {
  return static_cast<int>(static_cast<std::int64_t>(all) * i / count);
}

// The same by tensor cores (dattention_forward_mma.cu, dattention_backward_mma.cu), for heads of at most 64 channels.
constexpr int kMostMmaChannels = 64;
void attend_forward_mma(ForwardCall<bfloat16>& call, const BiasInputs& inputs);
void attend_queries_mma(BackwardCall<bfloat16>& call, const BiasInputs& inputs, const DAttentionBias& b);
void attend_samples_mma(BackwardCall<bfloat16>& call, const BiasInputs& inputs);

/// The gradient of a relative table whose sums a block's shared memory does not hold (dattention_backward_table.cu);
/// `call` has been through the sweep over queries, which leaves delta.
void attend_table(const BackwardCall<float>& call, const DAttentionBias& b);
void attend_table(const BackwardCall<bfloat16>& call, const DAttentionBias& b);

}  // namespace dattn::cuda
