// Exponentials by vectors, for attention's softmax. Included by kernel files after core/simd.h, once for each
// instruction set.
#if defined(DATTN_LAYERS_FAST_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DATTN_LAYERS_FAST_EXP_INL_H_
#undef DATTN_LAYERS_FAST_EXP_INL_H_
#else
#define DATTN_LAYERS_FAST_EXP_INL_H_
#endif

#include <array>
#include <bit>
#include <cstdint>
#include <iterator>
#include <type_traits>

#include "core/simd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

/// What fast_exp knows for vectors of kLanes floats: 2^(i / L), i < L, for as many i as a vector holds, 8 or 16, or one
/// where it is shorter; and the terms of P in 2^r = 1 + r P(r), |r| <= 1 / 2L, interpolated at Chebyshev's nodes to
/// 1e-8.
template <std::size_t kLanes>
struct ExpNumbers {
  static constexpr int kBits = 0;
  static constexpr float kTerms[] = {0.693147182f,   0.240226507f,   0.0555035695f,
                                     0.00961808302f, 0.00133908633f, 0.000154531634f};
};
template <>
struct ExpNumbers<8> {
  static constexpr int kBits = 3;
  static constexpr float kTerms[] = {0.693147182f, 0.240226507f, 0.0555093177f, 0.00961873122f};
};
template <>
struct ExpNumbers<16> {
  static constexpr int kBits = 4;
  static constexpr float kTerms[] = {0.693147182f, 0.240233555f, 0.0555050857f};
};

/// The bits of 2^(i / L), less those that i itself has when it is shifted to where exponents are.
template <int kBits>
constexpr auto powers_of_two() {
  constexpr float kPowers[] = {1.0f,        1.04427373f, 1.09050775f, 1.13878858f, 1.18920708f, 1.24185777f,
                               1.29683959f, 1.35425556f, 1.41421354f, 1.47682619f, 1.54221082f, 1.61049032f,
                               1.68179286f, 1.75625217f, 1.8340081f,  1.91520655f};
  std::array<std::uint32_t, 1 << kBits> table{};
  for (std::uint32_t i = 0; i < table.size(); ++i) {
    table[i] = std::bit_cast<std::uint32_t>(kPowers[i << (4 - kBits)]) - (i << (23 - kBits));
  }
  return table;
}

/// e^x for x below 88, of floats to 2 + 2 |x| ulp, as exact as a float of that size is itself. Under -86 the result is
/// as small as that of -86. NaN stays NaN. In double it is exp().
template <typename D, typename V = hn::Vec<D>>
HWY_INLINE V fast_exp(D d, V x) {
  if constexpr (std::is_same_v<hn::TFromD<D>, double>) {
    return exp(d, x);
  } else {
    // x = (n / L + r) ln 2. Adding kRound leaves n, rounded, in the lowest bits of a float.
    using Numbers = ExpNumbers<HWY_HAVE_SCALABLE ? 1 : hn::MaxLanes(D())>;
    constexpr int kBits = Numbers::kBits, kShift = 23 - kBits;
    constexpr float kRound = 0x1.8p23f / (1 << kBits);
    static constexpr auto kPowers = powers_of_two<kBits>();
    const hn::RebindToUnsigned<D> du;
    const auto log2e = hn::Set(d, 1.44269504f);
    x = at_least(d, x, hn::Set(d, -86.0f));
    const auto shifted = hn::MulAdd(x, log2e, hn::Set(d, kRound));
    const auto r = hn::MulSub(x, log2e, hn::Sub(shifted, hn::Set(d, kRound)));
    const auto n = hn::BitCast(du, shifted);
    auto power = hn::Set(du, kPowers[0]);
    if constexpr (kBits > 0) {
      const auto i = hn::IndicesFromVec(du, hn::And(n, hn::Set(du, (1u << kBits) - 1)));
      power = hn::TableLookupLanes(hn::LoadU(du, kPowers.data()), i);
    }
    const auto scale = hn::BitCast(d, hn::Add(hn::ShiftLeft<kShift>(n), power));
    constexpr std::size_t kCount = std::size(Numbers::kTerms);
    auto p = hn::Set(d, Numbers::kTerms[kCount - 1]);
#pragma GCC unroll 8
    for (std::size_t k = kCount - 1; k > 0; --k) p = hn::MulAdd(p, r, hn::Set(d, Numbers::kTerms[k - 1]));
    return hn::MulAdd(hn::Mul(scale, r), p, scale);
  }
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
