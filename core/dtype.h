// Element types of tensors, bfloat16 as a storage type, and dispatch from a run-time type to a template.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/error.h"

namespace dattn {

/// Upper half of a float32: 8 bits of exponent, 7 of mantissa. Storage only; arithmetic is done in float.
struct bfloat16 {
  std::uint16_t bits = 0;

  bfloat16() = default;
  /// Rounds to nearest, ties to even; every NaN stays a (quiet) NaN.
  explicit bfloat16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = nan ? static_cast<std::uint16_t>((u >> 16) | 0x40u)
               : static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
  explicit operator double() const { return static_cast<float>(*this); }
};

enum class Dtype : unsigned char { float32, float64, bfloat16, int64, int32, uint8 };

template <typename T>
struct DtypeOf;
template <>
struct DtypeOf<float> {
  static constexpr Dtype value = Dtype::float32;
};
template <>
struct DtypeOf<double> {
  static constexpr Dtype value = Dtype::float64;
};
template <>
struct DtypeOf<bfloat16> {
  static constexpr Dtype value = Dtype::bfloat16;
};
template <>
struct DtypeOf<std::int64_t> {
  static constexpr Dtype value = Dtype::int64;
};
template <>
struct DtypeOf<std::int32_t> {
  static constexpr Dtype value = Dtype::int32;
};
template <>
struct DtypeOf<std::uint8_t> {
  static constexpr Dtype value = Dtype::uint8;
};

template <typename T>
inline constexpr Dtype dtype_of = DtypeOf<T>::value;

/// The type of everything that goes with activations of a type and is kept exact: parameters, statistics, positions,
/// losses. Arithmetic is done in it too.
constexpr Dtype exact_type(Dtype activations) { return activations == Dtype::bfloat16 ? Dtype::float32 : activations; }

/// The same of C++ types: float for bfloat16, else T.
template <typename T>
struct ExactOf {
  using type = T;
};
template <>
struct ExactOf<bfloat16> {
  using type = float;
};
template <typename T>
using Exact = typename ExactOf<T>::type;

/// Size of one element in bytes.
constexpr std::size_t size_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32:
    case Dtype::int32:
      return 4;
    case Dtype::float64:
    case Dtype::int64:
      return 8;
    case Dtype::bfloat16:
      return 2;
    case Dtype::uint8:
      return 1;
  }
  return 0;
}

constexpr const char* name(Dtype dtype) {
  constexpr const char* kNames[] = {"float32", "float64", "bfloat16", "int64", "int32", "uint8"};
  return kNames[static_cast<int>(dtype)];
}

/// Calls f.operator()<float>() or f.operator()<double>(); `operation` names the caller in the error for other types.
template <typename F>
decltype(auto) dispatch_float(const char* operation, Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::float32:
      return f.template operator()<float>();
    case Dtype::float64:
      return f.template operator()<double>();
    default:
      fail("{}: expected float32 or float64, got {}", operation, name(dtype));
  }
}

/// The same with f.operator()<bfloat16>() for kernels that load and store activations of that type themselves.
template <typename F>
decltype(auto) dispatch_activations(const char* operation, Dtype dtype, F&& f) {
  if (dtype == Dtype::bfloat16) return f.template operator()<bfloat16>();
  return dispatch_float(operation, dtype, std::forward<F>(f));
}

/// Calls f with the C++ type of any element type.
template <typename F>
decltype(auto) dispatch_any(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::float32:
      return f.template operator()<float>();
    case Dtype::float64:
      return f.template operator()<double>();
    case Dtype::bfloat16:
      return f.template operator()<bfloat16>();
    case Dtype::int64:
      return f.template operator()<std::int64_t>();
    case Dtype::int32:
      return f.template operator()<std::int32_t>();
    case Dtype::uint8:
      return f.template operator()<std::uint8_t>();
  }
  fail("unknown element type {}", static_cast<int>(dtype));
}

}  // namespace dattn
