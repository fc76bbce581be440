// What every kernel file begins with: loads and stores of float and bfloat16, sums of warps and blocks in a fixed
// order, launches. All device code of the module is included through this file, for nvcc and for the emulation on the
// host (tests/cuda_emulation), so a kernel is written once and its tests run with and without a device.
//
// How a kernel is written. cuda/x.cu holds the device twins of layers/x_cpu.cpp, in the same order:
//
//   namespace {
//
//   template <typename S>  // float or bfloat16, the type of activations
//   __global__ void shift_kernel(const S* x, float shift, std::int64_t n, S* y) {
//     for (std::int64_t i = first_item(); i < n; i += item_step()) store(y + i, load(x + i) + shift);
//   }
//
//   }  // namespace
//
//   void shift_forward_cuda(const Tensor& x, double shift, Tensor& y) {
//     dispatch_storage("shift", x.dtype(), [&]<typename S>() {
//       launch("shift_forward", shift_kernel<S>, grid_for(x.elements()), x.data<S>(), static_cast<float>(shift),
//              x.elements(), y.data<S>());
//     });
//   }
//
// declared in cuda/kernels.h, with one line in cuda/enable.cu: `shift_forward.set_cuda(shift_forward_cuda);`.
//
// Elements. `load(p)` gives a float, `store(p, value)` rounds to nearest even; all arithmetic is in float. `load<N>(p)`
//   and `store<N>(p, floats)` move N neighbours by up to 16 bytes an instruction; p is a multiple of what one moves,
//   and a store is one. Operations element by element are `map_elements(name, n, f, y, x...)`; other plain loops are
//   `for_each_item(name, n, f)`. Sums over rows and over columns: cuda/sums.cuh. Products: cuda/gemm.h.
// Blocks have a multiple of 32 threads, at most 1024. A launch without a single block does nothing.
// Shared memory. `DATTN_SHARED(float, tile, 32 * 33);`, or `DynamicShared shared; auto a = shared.take<S>(n);` with
//   `shared_bytes<S>(n)` for each array in Grid::shared_bytes. Both give a `Shared<T>`: a plain pointer for nvcc, one
//   that notes every access in the emulation. So elements (of 2, 4, 8 or 16 bytes) are read into typed variables,
//   `const float a = tile[i];` and never `auto`, and written by `tile[i] = value;`. `tile[i].x` and `&tile[i]` are not
//   there: copy the struct, and write `tile + i`, which load and store take. `shared_cast<float4>(tile + i)` sees other
//   types.
// Barriers and warps. CUDA's own __syncthreads, __syncwarp, __shfl_*_sync, __ballot_sync, __any_sync, __all_sync, with
//   kFullWarp for the mask. A shuffle does not order accesses to shared memory; __syncwarp does.
// Sums. warp_sum, warp_max, block_sum and block_max give all threads the same bits. Partial sums of blocks go to memory
//   of a Scratch (cuda/memory.h) and are added in order by a second kernel. There are no floating-point atomics;
//   `atomic_add(p, i)` takes integers.
// Tensor cores. `mma_bfloat16(d, a, b)`: d [16,8] += a [16,16] b [16,8] in the fragments of PTX's m16n8k16.
//   `load_matrices(r, row)` and `load_matrices_transposed(r, row)` are ldmatrix, x2 or x4 by the size of r.
//   `copy_async<16>(shared, global, valid)` is cp.async, with zeros where not valid; copy_async_commit() and
//   copy_async_wait<pending>() end groups of them.
// What a kernel needs beyond this belongs into cuda/device.cuh and its twin tests/cuda_emulation/device.h, never as asm
//   or #if into a kernel file. <<<>>> appears nowhere: launch() is the only way, and it goes to stream().
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/tensor.h"

#if defined(DATTN_CUDA_EMULATED)
#include "cuda_emulation/device.h"
#else
#include "cuda/device.cuh"
#endif

#include "cuda/context.h"
#include "cuda/memory.h"

namespace dattn::cuda {

// --- launches ---

/// How many blocks of how many threads, and the bytes of dynamic shared memory of a block.
struct Grid {
  dim3 blocks, threads;
  std::size_t shared_bytes = 0;
};

constexpr int kThreads = 256;  // of a block, where nothing speaks for another number

/// Blocks for a loop over n items by first_item() and item_step(): `per_thread` turns of each thread, or more where n
/// is huge.
inline Grid grid_for(std::int64_t n, int per_thread = 4) {
  const std::int64_t per_block = static_cast<std::int64_t>(kThreads) * per_thread;
  const std::int64_t blocks = (n + per_block - 1) / per_block;
  return {static_cast<unsigned>(blocks < (1 << 20) ? blocks : 1 << 20), kThreads};
}

/// Runs `kernel` on stream() with the arguments converted to its parameters. `name` is what errors call it.
template <typename... P, typename... A>
void launch(const char* name, void (*kernel)(P...), const Grid& grid, const A&... arguments) {
  static_assert(sizeof...(P) == sizeof...(A), "as many arguments as the kernel has parameters");
  if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) return;
  launch_with(name, kernel, grid.blocks, grid.threads, grid.shared_bytes,
              std::tuple<P...>(static_cast<P>(arguments)...));
}

/// Bytes that DynamicShared::take<T>(count) takes.
template <typename T>
constexpr std::size_t shared_bytes(std::int64_t count) {
  return (sizeof(T) * static_cast<std::size_t>(count) + 15) / 16 * 16;
}

/// Calls f.operator()<float>() or f.operator()<bfloat16>(): the types of activations on a device.
template <typename F>
void dispatch_storage(const char* operation, Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::float32:
      return f.template operator()<float>();
    case Dtype::bfloat16:
      return f.template operator()<bfloat16>();
    default:
      fail("{}: expected float32 or bfloat16 on cuda, got {}", operation, name(dtype));
  }
}

// --- places ---

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int kWarpThreads = 32;

/// The first item of this thread in a loop over all items of a launch, and the step to its next.
__device__ inline std::int64_t first_item() { return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline std::int64_t item_step() { return static_cast<std::int64_t>(gridDim.x) * blockDim.x; }
/// This thread's place in its warp, and its warp's in the block (of one dimension).
__device__ inline int lane_index() { return static_cast<int>(threadIdx.x % kWarpThreads); }
__device__ inline int warp_index() { return static_cast<int>(threadIdx.x / kWarpThreads); }

// --- elements ---

/// N numbers in registers.
template <int N>
struct Floats {
  float v[N];
  __device__ __forceinline__ float& operator[](int i) { return v[i]; }
  __device__ __forceinline__ float operator[](int i) const { return v[i]; }
};

namespace detail {
// N elements that move in one instruction.
template <typename S, int N>
struct alignas(sizeof(S) * N) Pack {
  S element[N];
};
}  // namespace detail

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
template <typename S>
__device__ __forceinline__ S to_storage(float x) {
  if constexpr (std::is_same_v<S, float>) {
    return x;
  } else {
    bfloat16 y;
    y.bits = bfloat16_bits(x);
    return y;
  }
}

template <typename S>
__device__ __forceinline__ float load(const S* p) {
  return to_float(*p);
}
template <typename S>
__device__ __forceinline__ void store(S* p, float x) {
  *p = to_storage<S>(x);
}

template <int N, typename S>
constexpr int kWordsOf = static_cast<int>(sizeof(S)) * N / 4;

template <int N, typename S>
__device__ __forceinline__ Floats<N> from_words(const std::uint32_t (&words)[kWordsOf<N, S>]) {
  Floats<N> x;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if constexpr (std::is_same_v<S, float>) {
      x.v[i] = __uint_as_float(words[i]);
    } else {
      x.v[i] = __uint_as_float(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xffff0000u);
    }
  }
  return x;
}
template <typename S, int N>
__device__ __forceinline__ detail::Pack<S, N> to_pack(const Floats<N>& x) {
  detail::Pack<S, N> pack;
  if constexpr (std::is_same_v<S, float> || N == 1) {
#pragma unroll
    for (int i = 0; i < N; ++i) pack.element[i] = to_storage<S>(x.v[i]);
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 2) {  // one instruction rounds two
      const std::uint32_t pair = bfloat16_pair(x.v[i], x.v[i + 1]);
      pack.element[i].bits = static_cast<std::uint16_t>(pair);
      pack.element[i + 1].bits = static_cast<std::uint16_t>(pair >> 16);
    }
  }
  return pack;
}

template <int N, typename S>
__device__ __forceinline__ Floats<N> load(const S* p) {
  if constexpr (N == 1) {
    return {{load(p)}};
  } else if constexpr (sizeof(S) * N <= 16) {
    std::uint32_t words[kWordsOf<N, S>];
    load_words(p, words);
    return from_words<N, S>(words);
  } else {
    constexpr int kPart = 16 / sizeof(S);
    Floats<N> x;
#pragma unroll
    for (int i = 0; i < N; i += kPart) {
      const Floats<kPart> part = load<kPart>(p + i);
#pragma unroll
      for (int j = 0; j < kPart; ++j) x.v[i + j] = part.v[j];
    }
    return x;
  }
}
template <int N, typename S>
__device__ __forceinline__ void store(S* p, const Floats<N>& x) {
  static_assert(sizeof(S) * N <= 16);
  *reinterpret_cast<detail::Pack<S, N>*>(p) = to_pack<S>(x);
}

#if defined(DATTN_CUDA_EMULATED)  // where Shared<S> is no plain pointer
template <typename S>
float load(const emulation::SharedPointer<S>& p) {
  return to_float(static_cast<std::remove_const_t<S>>(*p));
}
template <typename S>
void store(const emulation::SharedPointer<S>& p, float x) {
  *p = to_storage<S>(x);
}
template <int N, typename S>
Floats<N> load(const emulation::SharedPointer<S>& p) {
  using Stored = std::remove_const_t<S>;
  if constexpr (N == 1) {
    return {{load(p)}};
  } else {
    std::uint32_t words[kWordsOf<N, Stored>];
    p.read(words, sizeof(words));
    return from_words<N, Stored>(words);
  }
}
template <int N, typename S>
void store(const emulation::SharedPointer<S>& p, const Floats<N>& x) {
  const auto pack = to_pack<S>(x);
  p.write(&pack, sizeof(pack));
}
#endif

// --- loops over items ---

namespace detail {
template <typename F>
__global__ void item_kernel(std::int64_t n, F f) {
  for (std::int64_t i = first_item(); i < n; i += item_step()) f(i);
}
}  // namespace detail

/// Calls f(i) on the device for every i in [0, n). F is a struct of plain members with a `__device__ void
/// operator()(std::int64_t i) const`.
template <typename F>
void for_each_item(const char* name, std::int64_t n, const F& f) {
  launch(name, detail::item_kernel<F>, grid_for(n), n, f);
}

namespace detail {
template <int N, typename F, typename S, typename... X>
__global__ void map_kernel(std::int64_t n, F f, S* y, const X*... x) {
  for (std::int64_t i = first_item() * N; i + N <= n; i += item_step() * N) {
    Floats<N> result;
    [&](const auto&... in) {
#pragma unroll
      for (int j = 0; j < N; ++j) result[j] = f(in[j]...);
    }(load<N>(x + i)...);
    store<N>(y + i, result);
  }
  if (const std::int64_t i = n / N * N + first_item(); i < n) store(y + i, f(load(x + i)...));
}

inline bool is_aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }
}  // namespace detail

/// y[i] = f(x[i]...) for every i in [0, n), 16 bytes at a time where all pointers allow it; y may be one of x. F is a
/// struct with a `__device__ float operator()(float...) const`.
template <typename F, typename S, typename... X>
void map_elements(const char* name, std::int64_t n, const F& f, S* y, const X*... x) {
  constexpr int kWide = 16 / sizeof(S);
  if ((detail::is_aligned(y) && ... && detail::is_aligned(x))) {
    launch(name, detail::map_kernel<kWide, F, S, X...>, grid_for((n + kWide - 1) / kWide, 1), n, f, y, x...);
  } else {
    launch(name, detail::map_kernel<1, F, S, X...>, grid_for(n), n, f, y, x...);
  }
}

// --- sums and maxima in a fixed order; every thread gets the same bits ---

/// Of the lanes of a warp, or of each kLanes neighbours among them.
template <int kLanes = kWarpThreads, typename T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int flip = kLanes / 2; flip > 0; flip /= 2) x += __shfl_xor_sync(kFullWarp, x, flip);
  return x;
}
template <int kLanes = kWarpThreads>
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int flip = kLanes / 2; flip > 0; flip /= 2) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, flip));
  return x;
}

/// Sums N numbers of every thread of a one-dimensional block. `scratch` holds N floats for each warp; it is free again
/// when the function returns.
template <int N>
__device__ __forceinline__ Floats<N> block_sum(Floats<N> x, Shared<float> scratch) {
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = warp_sum(x[i]);
  if (lane_index() == 0) {
#pragma unroll
    for (int i = 0; i < N; ++i) scratch[warp_index() * N + i] = x[i];
  }
  __syncthreads();
  const int warps = static_cast<int>(blockDim.x) / kWarpThreads;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float mine = lane_index() < warps ? static_cast<float>(scratch[lane_index() * N + i]) : 0.0f;
    x[i] = warp_sum(mine);
  }
  __syncthreads();
  return x;
}
__device__ __forceinline__ float block_sum(float x, Shared<float> scratch) {
  return block_sum(Floats<1>{{x}}, scratch)[0];
}

__device__ __forceinline__ float block_max(float x, Shared<float> scratch) {
  x = warp_max(x);
  if (lane_index() == 0) scratch[warp_index()] = x;
  __syncthreads();
  const int warps = static_cast<int>(blockDim.x) / kWarpThreads;
  x = warp_max(scratch[lane_index() < warps ? lane_index() : 0]);
  __syncthreads();
  return x;
}

}  // namespace dattn::cuda
