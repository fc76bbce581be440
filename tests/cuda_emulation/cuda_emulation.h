// Takes the place of <cuda_runtime.h> where cuda/*.cu are compiled as host C++: the words of the language, the built-in
// types, variables and functions, and the calls of the runtime that the project uses, under their CUDA names.
#pragma once

#include <math.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>

#include "execution.h"

// --- words of the language ---

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

// --- built-in types ---

struct float2 {
  float x, y;
};
struct float3 {
  float x, y, z;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// --- built-in variables ---

#define threadIdx (::dattn::emulation::running.thread)
#define blockIdx (::dattn::emulation::running.block)
#define blockDim (::dattn::emulation::running.threads)
#define gridDim (::dattn::emulation::running.blocks)
constexpr int warpSize = 32;

// --- barriers, shuffles, votes ---

inline void __syncthreads(const dattn::emulation::Site& site = dattn::emulation::Site::current()) {
  dattn::emulation::block_barrier(site);
}
inline int __syncthreads_or(int flag, const dattn::emulation::Site& site = dattn::emulation::Site::current()) {
  return dattn::emulation::block_any(flag != 0, site) ? 1 : 0;
}
inline void __syncwarp(unsigned mask = dattn::emulation::kFullMask,
                       const dattn::emulation::Site& site = dattn::emulation::Site::current()) {
  dattn::emulation::warp_exchange(dattn::emulation::WarpOperation::sync, mask, nullptr, 0, site);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace dattn::emulation {

inline int lane() { return running.index % kWarp; }

template <typename T>
T shuffle_from(unsigned mask, T value, int source, const Site& site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  const std::byte* values = warp_exchange(WarpOperation::shuffle, mask, &value, sizeof(T), site);
  if (source < 0 || source >= kWarp) return value;  // beyond the warp: the thread's own
  if (((mask >> source) & 1u) == 0) fail_here("shuffles from lane {}, which is missing from the mask", source);
  T result;
  std::memcpy(&result, values + static_cast<std::size_t>(source) * kExchangeBytes, sizeof(T));
  return result;
}

inline unsigned votes(unsigned mask, int flag, const Site& site) {
  const std::byte* values = warp_exchange(WarpOperation::vote, mask, &flag, sizeof(flag), site);
  unsigned result = 0;
  for (int i = 0; i < kWarp; ++i) {
    if (((mask >> i) & 1u) == 0) continue;
    int vote;
    std::memcpy(&vote, values + static_cast<std::size_t>(i) * kExchangeBytes, sizeof(vote));
    if (vote != 0) result |= 1u << i;
  }
  return result;
}

// The lane that `step` away lies in this lane's part of `width` lanes, or this lane.
inline int within(int lane_there, int width) {
  const int first = lane() / width * width;
  return lane_there >= first && lane_there < first + width ? lane_there : lane();
}

}  // namespace dattn::emulation

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              const dattn::emulation::Site& site = dattn::emulation::Site::current()) {
  const int first = dattn::emulation::lane() / width * width;
  return dattn::emulation::shuffle_from(mask, value, first + (source & (width - 1)), site);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32,
                  const dattn::emulation::Site& site = dattn::emulation::Site::current()) {
  return dattn::emulation::shuffle_from(mask, value, dattn::emulation::within(dattn::emulation::lane() ^ flip, width),
                                        site);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, int step, int width = 32,
                   const dattn::emulation::Site& site = dattn::emulation::Site::current()) {
  return dattn::emulation::shuffle_from(mask, value, dattn::emulation::within(dattn::emulation::lane() + step, width),
                                        site);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, int step, int width = 32,
                 const dattn::emulation::Site& site = dattn::emulation::Site::current()) {
  return dattn::emulation::shuffle_from(mask, value, dattn::emulation::within(dattn::emulation::lane() - step, width),
                                        site);
}
inline unsigned __ballot_sync(unsigned mask, int flag,
                              const dattn::emulation::Site& site = dattn::emulation::Site::current()) {
  return dattn::emulation::votes(mask, flag, site);
}
inline int __any_sync(unsigned mask, int flag, const dattn::emulation::Site& site = dattn::emulation::Site::current()) {
  return dattn::emulation::votes(mask, flag, site) != 0;
}
inline int __all_sync(unsigned mask, int flag, const dattn::emulation::Site& site = dattn::emulation::Site::current()) {
  return dattn::emulation::votes(mask, flag, site) == mask;
}

// --- integer atomics on global memory ---

template <typename T>
T atomicAdd(T* p, T value) {
  static_assert(std::is_integral_v<T>, "floating-point atomics do not give the same bits twice");
  const T before = *p;
  *p = static_cast<T>(before + value);
  return before;
}
template <typename T>
T atomicMax(T* p, T value) {
  const T before = *p;
  *p = before < value ? value : before;
  return before;
}
template <typename T>
T atomicMin(T* p, T value) {
  const T before = *p;
  *p = value < before ? value : before;
  return before;
}

// --- functions ---

template <typename T>
T __ldg(const T* p) {
  return *p;
}
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678f); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
inline int __float2int_rn(float x) { return static_cast<int>(rintf(x)); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32);
}
template <typename T>
T max(T a, T b) {
  return a < b ? b : a;
}
template <typename T>
T min(T a, T b) {
  return b < a ? b : a;
}

#include "runtime.h"
