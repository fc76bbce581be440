// The names of cuda/device.cuh for kernels that run on the host: shared memory whose every access is checked, tensor
// cores and asynchronous copies in plain arithmetic, launches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "core/dtype.h"
#include "cuda_emulation.h"

namespace dattn::emulation {

/// An element of shared memory: reads as a T and takes one.
template <typename T>
class SharedElement {
 public:
  using Value = std::remove_const_t<T>;
  SharedElement(const SharedArray& array, std::byte* at) : array_(array), at_(at) {}
  operator Value() const {
    note_access(array_, at_, sizeof(T), Access::read);
    Value value;
    std::memcpy(&value, at_, sizeof(T));
    return value;
  }
  const SharedElement& operator=(const Value& value) const {
    static_assert(!std::is_const_v<T>, "these elements are only read");
    note_access(array_, at_, sizeof(T), Access::write);
    std::memcpy(at_, &value, sizeof(T));
    return *this;
  }
  const SharedElement& operator=(const SharedElement& other) const { return *this = static_cast<Value>(other); }
  SharedElement(const SharedElement&) = default;
  const SharedElement& operator+=(Value value) const {
    return *this = static_cast<Value>(static_cast<Value>(*this) + value);
  }
  const SharedElement& operator-=(Value value) const {
    return *this = static_cast<Value>(static_cast<Value>(*this) - value);
  }
  const SharedElement& operator*=(Value value) const {
    return *this = static_cast<Value>(static_cast<Value>(*this) * value);
  }

 private:
  SharedArray array_;
  std::byte* at_;
};

/// A pointer into an array of shared memory.
template <typename T>
class SharedPointer {
 public:
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % 2 == 0 && (sizeof(T) & (sizeof(T) - 1)) == 0,
                "elements of shared memory have 2, 4, 8 or 16 bytes");
  SharedPointer() = default;
  SharedPointer(const SharedArray& array, std::byte* at) : array_(array), at_(at) {}
  operator SharedPointer<const T>() const { return {array_, at_}; }
  template <typename I>
  SharedElement<T> operator[](I i) const {
    return {array_, at_ + static_cast<std::ptrdiff_t>(i) * static_cast<std::ptrdiff_t>(sizeof(T))};
  }
  SharedElement<T> operator*() const { return {array_, at_}; }
  template <typename I>
  SharedPointer operator+(I i) const {
    return {array_, at_ + static_cast<std::ptrdiff_t>(i) * static_cast<std::ptrdiff_t>(sizeof(T))};
  }
  template <typename I>
  SharedPointer operator-(I i) const {
    return *this + -static_cast<std::ptrdiff_t>(i);
  }
  template <typename I>
  SharedPointer& operator+=(I i) {
    return *this = *this + i;
  }
  template <typename To>
  SharedPointer<To> cast() const {
    return {array_, at_};
  }

  /// Reads or writes `bytes` bytes as one access, as a vector instruction does.
  void read(void* to, std::size_t bytes) const {
    note_access(array_, at_, bytes, Access::read);
    std::memcpy(to, at_, bytes);
  }
  void write(const void* from, std::size_t bytes) const {
    note_access(array_, at_, bytes, Access::write);
    std::memcpy(at_, from, bytes);
  }
  void add_atomically(T value) const {
    static_assert(std::is_integral_v<T>, "floating-point atomics do not give the same bits twice");
    note_access(array_, at_, sizeof(T), Access::atomic);
    T sum;
    std::memcpy(&sum, at_, sizeof(T));
    sum = static_cast<T>(sum + value);
    std::memcpy(at_, &sum, sizeof(T));
  }

 private:
  SharedArray array_;
  std::byte* at_ = nullptr;
};

/// Begins a copy that the thread sees after the wait; until then `to` holds no numbers.
void begin_copy(const SharedPointer<std::uint16_t>& to, const void* from, std::size_t bytes, bool valid);
void commit_copies();
/// Ends all copies but those of the last `pending` commits.
void end_copies(int pending);

template <typename T>
void check_argument(const char* kernel, const T& argument) {
  if constexpr (std::is_pointer_v<T>) check_device_pointer(kernel, argument);
}

/// The 8 x 8 matrices whose rows the threads of the warp point to: element `pair` of matrix m, in this thread's place.
void read_matrices(const SharedPointer<const bfloat16>& row, int count, bool transposed, std::uint32_t* r,
                   const Site& site);
void multiply_matrices(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const Site& site);

}  // namespace dattn::emulation

namespace dattn::cuda {

// --- shared memory ---

template <typename T>
using Shared = emulation::SharedPointer<T>;

#define DATTN_SHARED(T, name, count)                                                                   \
  static const char name##_key = 0;                                                                    \
  const auto name##_array = ::dattn::emulation::shared_array(&name##_key, #name, sizeof(T) * (count)); \
  const ::dattn::cuda::Shared<T> name(name##_array, name##_array.data)

template <typename To, typename From>
Shared<To> shared_cast(const emulation::SharedPointer<From>& p) {
  return p.template cast<To>();
}

class DynamicShared {
 public:
  template <typename T>
  Shared<T> take(int count) {
    const std::size_t bytes = sizeof(T) * static_cast<std::size_t>(count);
    const auto array = emulation::dynamic_shared("dynamic", used_, bytes);
    used_ += (bytes + 15) / 16 * 16;
    return {array, array.data};
  }

 private:
  std::size_t used_ = 0;
};

template <typename T>
void atomic_add(T* p, std::type_identity_t<T> value) {
  atomicAdd(p, value);
}
template <typename T>
void atomic_add(const emulation::SharedPointer<T>& p, std::type_identity_t<T> value) {
  p.add_atomically(value);
}

// --- words ---

template <int N>
void load_words(const void* p, std::uint32_t (&words)[N]) {
  if (reinterpret_cast<std::uintptr_t>(p) % sizeof(words) != 0)
    emulation::fail_here("reads {} bytes at an address that is no multiple of as many", sizeof(words));
  std::memcpy(words, p, sizeof(words));
}

// --- bfloat16 ---

inline std::uint16_t bfloat16_bits(float x) { return bfloat16(x).bits; }
inline std::uint32_t bfloat16_pair(float low, float high) {
  return static_cast<std::uint32_t>(bfloat16_bits(high)) << 16 | bfloat16_bits(low);
}

inline float fast_exp2(float x) { return x < -126 ? 0.0f : exp2f(x); }
inline float fast_reciprocal(float x) { return 1.0f / x; }

// --- tensor cores ---

inline void mma_bfloat16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                         const emulation::Site& site = emulation::Site::current()) {
  emulation::multiply_matrices(d, a, b, site);
}
template <int kCount>
void load_matrices(std::uint32_t (&r)[kCount], const Shared<const bfloat16>& row,
                   const emulation::Site& site = emulation::Site::current()) {
  static_assert(kCount == 2 || kCount == 4);
  emulation::read_matrices(row, kCount, false, r, site);
}
template <int kCount>
void load_matrices_transposed(std::uint32_t (&r)[kCount], const Shared<const bfloat16>& row,
                              const emulation::Site& site = emulation::Site::current()) {
  static_assert(kCount == 2 || kCount == 4);
  emulation::read_matrices(row, kCount, true, r, site);
}

// --- asynchronous copies ---

template <int kBytes, typename T>
void copy_async(const emulation::SharedPointer<T>& to, const T* from, bool valid = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  emulation::begin_copy(to.template cast<std::uint16_t>(), from, kBytes, valid);
}
inline void copy_async_commit() { emulation::commit_copies(); }
template <int kPending>
void copy_async_wait() {
  emulation::end_copies(kPending);
}

// --- launches ---

template <typename... P>
void launch_with(const char* name, void (*kernel)(P...), dim3 blocks, dim3 threads, std::size_t shared_bytes,
                 const std::tuple<P...>& arguments) {
  std::apply([&](const auto&... argument) { (emulation::check_argument(name, argument), ...); }, arguments);
  emulation::launch(name, {blocks.x, blocks.y, blocks.z}, {threads.x, threads.y, threads.z}, shared_bytes,
                    [kernel, arguments] { std::apply(kernel, arguments); });
}

}  // namespace dattn::cuda
