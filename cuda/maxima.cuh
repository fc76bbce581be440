// Maxima of windows and where in them they were: the device's layers/pool_taps-inl.h.
#pragma once

#include "cuda/common.cuh"

namespace dattn::cuda {

/// Makes v, at `tap` of its window, the maximum where it is larger than `best` or NaN: the first of equal values stays.
__device__ __forceinline__ void keep_larger(float v, int tap, float& best, int& place) {
  if (v > best || v != v) best = v, place = tap;
}

/// V places in their windows, from and to memory.
template <int V>
struct Taps {
  int v[V];
};

template <int V, typename Tap>
__device__ __forceinline__ Taps<V> load_taps(const Tap* from) {
  Taps<V> taps;
  if constexpr (sizeof(Tap) * V <= 16) {
    const auto pack = *reinterpret_cast<const detail::Pack<Tap, V>*>(from);
#pragma unroll
    for (int i = 0; i < V; ++i) taps.v[i] = pack.element[i];
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) taps.v[i] = from[i];
  }
  return taps;
}

template <int V, typename Tap>
__device__ __forceinline__ void store_taps(Tap* to, const Taps<V>& taps) {
  detail::Pack<Tap, V> pack;
#pragma unroll
  for (int i = 0; i < V; ++i) pack.element[i] = static_cast<Tap>(taps.v[i]);
  if constexpr (sizeof(Tap) * V <= 16) {
    *reinterpret_cast<detail::Pack<Tap, V>*>(to) = pack;
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) to[i] = pack.element[i];
  }
}

}  // namespace dattn::cuda
