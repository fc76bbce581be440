// Philox: Random123's known answers; streams that do not depend on order and do not meet; moments of what is drawn.
#include "core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "instruction_sets.h"

namespace dattn {
namespace {

using Block = std::array<std::uint32_t, 4>;

// The vectors `philox4x32 10` of Random123's kat_vectors.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox(0, 0, 0), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(~0ull, ~0ull, ~0ull), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, ANumberIsTheSameInWhateverOrder) {
  Random stream(7, Purpose::test, 3, 1);
  const Random same(7, Purpose::test, 3, 1);
  for (std::uint64_t i = 0; i < 100; ++i) EXPECT_EQ(stream.next_bits(), same.bits(i));
  EXPECT_EQ(same.bits(5), same.bits(5));
}

TEST(Random, BulkDrawingGivesTheSameBits) {
  const Random random(0x123456789abcdef0, Purpose::test, 77, 5);
  test::on_every_instruction_set([&] {
    // Beginnings within a block, lengths around a vector's, and a counter that carries into its upper word.
    for (const std::uint64_t first : {0ull, 1ull, 6ull, 4095ull, (1ull << 34) - 7}) {
      for (const std::size_t n : {0u, 1u, 3u, 15u, 16u, 17u, 100u}) {
        std::vector<std::uint32_t> bits(n);
        random.fill_bits(first, bits);
        for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(bits[i], random.bits(first + i)) << first << " + " << i;
      }
    }
  });
}

TEST(Random, StreamsDoNotMeet) {
  std::set<std::uint32_t> firsts;
  int streams = 0;
  for (const std::uint64_t seed : {0, 1, 2}) {
    for (const Purpose purpose : {Purpose::init, Purpose::dropout, Purpose::test}) {
      for (const std::uint64_t step : {0, 1, 1000000}) {
        for (const std::uint32_t lane : {0, 1, 255}) {
          firsts.insert(Random(seed, purpose, step, lane).bits(0));
          ++streams;
        }
      }
    }
  }
  EXPECT_EQ(static_cast<int>(firsts.size()), streams);
}

TEST(Random, MomentsOfUniformNormalAndBelow) {
  const Random random(1, Purpose::test);
  constexpr int kCount = 100'000;
  double uniform = 0, normal = 0, square = 0, fourth = 0;
  int counts[7] = {};
  for (std::uint64_t i = 0; i < kCount; ++i) {
    const float u = random.uniform(i);
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    const double z = random.normal(i);
    uniform += static_cast<double>(u) / kCount;
    normal += z / kCount;
    square += z * z / kCount;
    fourth += z * z * z * z / kCount;
    ++counts[random.below(i, 7)];
  }
  EXPECT_NEAR(uniform, 0.5, 0.005);
  EXPECT_NEAR(normal, 0, 0.015);
  EXPECT_NEAR(square, 1, 0.02);
  EXPECT_NEAR(fourth, 3, 0.15);
  for (const int count : counts) EXPECT_NEAR(count, kCount / 7.0, 600);
}

}  // namespace
}  // namespace dattn
