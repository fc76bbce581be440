// What kernels use beyond C++ and CUDA's own functions, for nvcc: shared memory, tensor cores, asynchronous copies,
// launches. tests/cuda_emulation/device.h has the same names for kernels that run on the host; cuda/common.cuh includes
// one of the two and documents them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>

#include "core/dtype.h"

namespace dattn::cuda {

// --- shared memory ---

template <typename T>
using Shared = T*;

#define DATTN_SHARED(T, name, count)                                        \
  __shared__ __align__(16) unsigned char name##_bytes[sizeof(T) * (count)]; \
  ::dattn::cuda::Shared<T> const name = reinterpret_cast<T*>(name##_bytes)

template <typename To, typename From>
__device__ __forceinline__ Shared<To> shared_cast(Shared<From> p) {
  return reinterpret_cast<To*>(p);
}

class DynamicShared {
 public:
  template <typename T>
  __device__ __forceinline__ Shared<T> take(int count) {
    extern __shared__ __align__(128) unsigned char dynamic_shared_bytes[];
    T* taken = reinterpret_cast<T*>(dynamic_shared_bytes + used_);
    used_ += (static_cast<int>(sizeof(T)) * count + 15) / 16 * 16;
    return taken;
  }

 private:
  int used_ = 0;
};

template <typename T>
__device__ __forceinline__ void atomic_add(T* p, std::type_identity_t<T> value) {
  static_assert(std::is_integral_v<T>, "floating-point atomics do not give the same bits twice");
  atomicAdd(p, value);
}

// --- words ---

/// Reads 4, 8 or 16 bytes from a multiple of as many in one instruction. (Of an array of smaller elements the compiler
/// would read each by itself.)
template <int N>
__device__ __forceinline__ void load_words(const void* p, std::uint32_t (&words)[N]) {
  if constexpr (N == 4) {
    const uint4 word = *static_cast<const uint4*>(p);
    words[0] = word.x, words[1] = word.y, words[2] = word.z, words[3] = word.w;
  } else if constexpr (N == 2) {
    const uint2 word = *static_cast<const uint2*>(p);
    words[0] = word.x, words[1] = word.y;
  } else {
    static_assert(N == 1);
    words[0] = *static_cast<const std::uint32_t*>(p);
  }
}

// --- bfloat16 ---

__device__ __forceinline__ std::uint16_t bfloat16_bits(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
__device__ __forceinline__ std::uint32_t bfloat16_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return static_cast<std::uint32_t>(__bfloat16_as_ushort(pair.y)) << 16 | __bfloat16_as_ushort(pair.x);
}

/// 2^x within two units in the last place, 0 where that is below the smallest normal number.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// 1 / x within one unit in the last place, 0 where that is below the smallest normal number.
__device__ __forceinline__ float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// --- tensor cores (from sm_80 on; a device without them ends the kernel) ---

__device__ __forceinline__ void mma_bfloat16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], Shared<const bfloat16> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrices(std::uint32_t (&r)[2], Shared<const bfloat16> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&r)[4], Shared<const bfloat16> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&r)[2], Shared<const bfloat16> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

// --- asynchronous copies (at once where the device has none) ---

template <int kBytes, typename T>
__device__ __forceinline__ void copy_async(Shared<T> to, const T* from, bool valid = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
#if __CUDA_ARCH__ >= 800
  const int bytes = valid ? kBytes : 0;  // the rest is filled with zeros
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(kBytes),
                 "r"(bytes)
                 : "memory");
  }
#else
  using Word = std::conditional_t<kBytes == 16, uint4, std::conditional_t<kBytes == 8, uint2, unsigned> >;
  *reinterpret_cast<Word*>(to) = valid ? *reinterpret_cast<const Word*>(from) : Word{};
#endif
}
__device__ __forceinline__ void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// --- launches ---

void launch_now(const char* name, const void* kernel, dim3 blocks, dim3 threads, std::size_t shared_bytes,
                void** arguments);

template <typename... P>
void launch_with(const char* name, void (*kernel)(P...), dim3 blocks, dim3 threads, std::size_t shared_bytes,
                 std::tuple<P...> arguments) {
  std::apply(
      [&](auto&... argument) {
        void* pointers[] = {const_cast<void*>(static_cast<const void*>(&argument))..., nullptr};
        launch_now(name, reinterpret_cast<const void*>(kernel), blocks, threads, shared_bytes, pointers);
      },
      arguments);
}

}  // namespace dattn::cuda
