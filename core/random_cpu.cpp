// Philox4x32-10 over many blocks at once: the numbers of Random::bits by SIMD.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/random_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <bit>
#include <cstring>

#include "core/random.h"
#include "core/simd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

using Words = hn::ScalableTag<std::uint64_t>;
using WordVector = hn::Vec<Words>;

// Lower halves of the lanes times m, in full.
HWY_INLINE WordVector Product(WordVector words, std::uint32_t m) {
#if HWY_TARGET == HWY_SCALAR
  return hn::Set(Words(), std::uint64_t{static_cast<std::uint32_t>(hn::GetLane(words))} * m);
#else
  const hn::Repartition<std::uint32_t, Words> d32;
  return hn::MulEven(hn::BitCast(d32, words), hn::Set(d32, m));
#endif
}

// One block a lane: words live in the lower halves of 64-bit lanes, whose upper halves are left as they come, since
// products do not read them. Ends with words (0, 1) and (2, 3) paired in `low` and `high`.
HWY_INLINE void PhiloxLanes(std::uint64_t key, std::uint64_t block, std::uint64_t counter_high, WordVector& low,
                            WordVector& high) {
  const Words d;
  WordVector c0 = hn::Iota(d, block), c1 = hn::ShiftRight<32>(c0);
  WordVector c2 = hn::Set(d, counter_high), c3 = hn::Set(d, counter_high >> 32);
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const WordVector p0 = Product(c0, 0xD2511F53u);
    const WordVector p1 = Product(c2, 0xCD9E8D57u);
    c0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p1), c1), hn::Set(d, std::uint64_t{k0}));
    c1 = p1;
    c2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p0), c3), hn::Set(d, std::uint64_t{k1}));
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const WordVector lower = hn::Set(d, 0xFFFFFFFFu);
  low = hn::Or(hn::And(c0, lower), hn::ShiftLeft<32>(c1));
  high = hn::Or(hn::And(c2, lower), hn::ShiftLeft<32>(c3));
}

void FillBits(std::uint64_t key, std::uint64_t counter_high, std::uint64_t first, std::uint32_t* bits, std::size_t n) {
  static_assert(std::endian::native == std::endian::little);
  const Words d;
  const std::size_t lanes = hn::Lanes(d);
  HWY_ALIGN std::uint64_t words[2 * hn::MaxLanes(d)];
  std::uint64_t block = first / 4;
  std::size_t skip = first % 4;  // the first block may begin in its middle
  while (n > 0) {
    WordVector low, high;
    PhiloxLanes(key, block, counter_high, low, high);
    hn::StoreInterleaved2(low, high, d, words);
    const std::size_t count = std::min(n, 4 * lanes - skip);
    std::memcpy(bits, reinterpret_cast<const char*>(words) + 4 * skip, 4 * count);
    bits += count;
    n -= count;
    block += lanes;
    skip = 0;
  }
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(FillBits);
void Random::fill_bits(std::uint64_t first, std::span<std::uint32_t> bits) const {
  HWY_DYNAMIC_DISPATCH(FillBits)(seed_, high_, first, bits.data(), bits.size());
}

}  // namespace dattn
#endif
