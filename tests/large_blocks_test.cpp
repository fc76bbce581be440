// Large blocks: splitting, joining, growing, giving memory back; and that the memory backed stays near to what was in
// use at most.
#include "core/large_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <vector>

#include "small.h"

namespace dattn {
namespace {

constexpr std::size_t kPage = LargeBlocks::kPage, kRange = 4096 * kPage, kHugePage = 32 * kPage;

void fill(std::byte* block, std::size_t size, int mark) { std::memset(block, mark, size); }

TEST(LargeBlocks, ABlockIsSplitAndItsPartsAreJoinedAgain) {
  LargeBlocks blocks(kRange);
  std::byte* whole = blocks.allocate(kHugePage);
  blocks.release(whole, kHugePage);
  EXPECT_EQ(blocks.cached(), kHugePage);
  EXPECT_EQ(blocks.system_requests(), 1u);
  std::byte* a = blocks.allocate(3 * kPage);
  std::byte* b = blocks.allocate(5 * kPage);
  std::byte* c = blocks.allocate(24 * kPage);
  EXPECT_EQ(a, whole);
  EXPECT_EQ(b, a + 3 * kPage);
  EXPECT_EQ(c, b + 5 * kPage);
  EXPECT_EQ(blocks.cached(), 0u);
  blocks.release(a, 3 * kPage);  // with neither neighbour, with both, with the one below
  blocks.release(c, 24 * kPage);
  blocks.release(b, 5 * kPage);
  ASSERT_EQ(blocks.free_blocks().size(), 2u);
  EXPECT_EQ(blocks.free_blocks()[0].begin, whole);
  EXPECT_EQ(blocks.free_blocks()[0].size, kHugePage);
  EXPECT_EQ(blocks.allocate(kHugePage), whole);
  EXPECT_EQ(blocks.system_requests(), 1u);
}

TEST(LargeBlocks, TheSmallestBlockThatFitsIsTaken) {
  LargeBlocks blocks(kRange);
  std::vector<std::byte*> held;
  const std::size_t sizes[] = {9, 1, 4, 1, 6, 1, 4, 6};  // together a huge page
  for (const std::size_t pages : sizes) held.push_back(blocks.allocate(pages * kPage));
  for (const std::size_t i : {0, 2, 4, 6}) blocks.release(held[i], sizes[i] * kPage);
  EXPECT_EQ(blocks.allocate(5 * kPage), held[4]);
  EXPECT_EQ(blocks.allocate(3 * kPage), held[2]);  // of two alike, the first
  EXPECT_EQ(blocks.allocate(7 * kPage), held[0]);
  EXPECT_EQ(blocks.allocate(4 * kPage), held[6]);
  EXPECT_EQ(blocks.system_requests(), 1u);
}

TEST(LargeBlocks, WhereNoneFitsTheLastGrows) {
  LargeBlocks blocks(kRange);
  std::byte* first = blocks.allocate(20 * kPage);
  std::byte* second = blocks.allocate(12 * kPage);
  blocks.release(second, 12 * kPage);
  EXPECT_EQ(blocks.allocate(44 * kPage), second);  // 12 pages were backed, a huge page is added
  EXPECT_EQ(blocks.cached(), 0u);
  EXPECT_EQ(blocks.system_requests(), 2u);
  fill(first, 20 * kPage, 1), fill(second, 44 * kPage, 2);
  EXPECT_EQ(first[20 * kPage - 1], std::byte{1});
}

TEST(LargeBlocks, TrimGivesBackWhatIsFreeAndItCanBeUsedAgain) {
  LargeBlocks blocks(kRange);
  std::byte *a = blocks.allocate(kHugePage), *b = blocks.allocate(kHugePage), *c = blocks.allocate(kHugePage);
  for (std::byte* block : {a, b, c}) fill(block, kHugePage, 7);
  blocks.release(b, kHugePage);
  blocks.trim();
  EXPECT_EQ(blocks.cached(), 0u);
  EXPECT_EQ(a[kHugePage - 1], std::byte{7});
  EXPECT_EQ(c[0], std::byte{7});
  const auto requests = blocks.system_requests();
  EXPECT_EQ(blocks.allocate(kHugePage), b);  // the hole, before space beyond
  EXPECT_EQ(blocks.system_requests(), requests + 1);
  EXPECT_EQ(b[0], std::byte{0});
  for (std::byte* block : {a, b, c}) blocks.release(block, kHugePage);
  blocks.trim();
  EXPECT_EQ(blocks.free_blocks().size(), 1u);  // all is bare, and one
  EXPECT_FALSE(blocks.free_blocks()[0].backed);
}

TEST(LargeBlocks, ABlockGrowsOverWhatIsFreeOnBothSides) {
  LargeBlocks blocks(kRange);
  std::byte *a = blocks.allocate(kHugePage), *b = blocks.allocate(kHugePage), *c = blocks.allocate(kHugePage),
            *d = blocks.allocate(kHugePage);
  blocks.release(a, kHugePage), blocks.release(c, kHugePage);
  blocks.trim();
  blocks.release(b, kHugePage);  // backed, between bare space
  EXPECT_EQ(blocks.allocate(3 * kHugePage), a);
  fill(a, 3 * kHugePage, 3);
  EXPECT_EQ(blocks.cached(), 0u);
  blocks.release(d, kHugePage);
}

TEST(LargeBlocks, MoreRangesComeWhereOneIsFull) {
  LargeBlocks blocks(kHugePage);
  std::vector<std::byte*> held;
  for (int i = 0; i < 20; ++i) {
    held.push_back(blocks.allocate(3 * kPage));
    fill(held.back(), 3 * kPage, i);
  }
  std::byte* wide = blocks.allocate(5 * kHugePage);
  fill(wide, 5 * kHugePage, 99);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(held[static_cast<std::size_t>(i)][3 * kPage - 1], std::byte(i));
    blocks.release(held[static_cast<std::size_t>(i)], 3 * kPage);
  }
  blocks.release(wide, 5 * kHugePage);
  EXPECT_EQ(blocks.allocate(5 * kHugePage), wide);
}

TEST(LargeBlocks, WhereTheSystemHasNoMoreThereIsNone) {
  LargeBlocks blocks(kRange);
  EXPECT_EQ(blocks.allocate(std::size_t{1} << 50), nullptr);
  std::byte* block = blocks.allocate(kPage);
  ASSERT_NE(block, nullptr);
  fill(block, kPage, 1);
}

// Random blocks, held to what the header says.
class Checked {
 public:
  void allocate(std::size_t size) {
    const std::optional<std::size_t> best = best_fit(size);
    const std::size_t cached = blocks_.cached();
    const auto requests = blocks_.system_requests();
    std::byte* block = blocks_.allocate(size);
    ASSERT_NE(block, nullptr);
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(block) % 4096, 0u);
    ASSERT_EQ(blocks_.system_requests() == requests, best.has_value());  // the system is asked where nothing fits
    if (best) {
      ASSERT_EQ(blocks_.cached(), cached - size);
      ASSERT_EQ(best_of_, block);
    } else {
      ASSERT_LT(blocks_.cached(), cached + kHugePage);  // and gives no more than asked for
    }
    const auto mark = static_cast<int>(++count_ % 251);
    block[0] = block[size - 1] = std::byte(mark);
    const auto after = held_.upper_bound(block);
    ASSERT_TRUE(after == held_.end() || block + size <= after->first);
    ASSERT_TRUE(after == held_.begin() || end_of(*std::prev(after)) <= block);
    held_[block] = {size, mark};
  }

  void release(std::size_t which) {
    const auto i = std::next(held_.begin(), static_cast<std::ptrdiff_t>(which));
    const auto [block, held] = *i;
    ASSERT_EQ(block[0], std::byte(held.mark));
    ASSERT_EQ(block[held.size - 1], std::byte(held.mark));
    const std::size_t cached = blocks_.cached();
    blocks_.release(block, held.size);
    ASSERT_EQ(blocks_.cached(), cached + held.size);
    held_.erase(i);
  }

  // The free blocks: by address, apart from each other and from blocks held, neighbours of one kind joined.
  void check() const {
    const auto& list = blocks_.free_blocks();
    for (std::size_t i = 0; i < list.size(); ++i) {
      ASSERT_GT(list[i].size, 0u);
      const std::byte* end = list[i].begin + list[i].size;
      if (i + 1 < list.size()) {
        ASSERT_LE(end, list[i + 1].begin);
        ASSERT_TRUE(end != list[i + 1].begin || list[i].backed != list[i + 1].backed);
      }
      const auto held = held_.lower_bound(list[i].begin);
      ASSERT_TRUE(held == held_.end() || end <= held->first);
      ASSERT_TRUE(held == held_.begin() || end_of(*std::prev(held)) <= list[i].begin);
    }
  }

  void trim() {
    blocks_.trim();
    ASSERT_EQ(blocks_.cached(), 0u);
  }

  std::size_t held() const { return held_.size(); }

 private:
  struct Held {
    std::size_t size;
    int mark;
  };
  static const std::byte* end_of(const std::pair<std::byte* const, Held>& held) {
    return held.first + held.second.size;
  }

  std::optional<std::size_t> best_fit(std::size_t size) {
    std::optional<std::size_t> best;
    for (const auto& block : blocks_.free_blocks()) {
      if (block.backed && block.size >= size && (!best || block.size < *best))
        best = block.size, best_of_ = block.begin;
    }
    return best;
  }

  LargeBlocks blocks_{kRange};
  std::map<std::byte*, Held> held_;
  const std::byte* best_of_ = nullptr;
  std::size_t count_ = 0;
};

TEST(LargeBlocks, RandomSequences) {
  for (unsigned seed = 0; seed < 4; ++seed) {
    SCOPED_TRACE(seed);
    Checked blocks;
    std::mt19937 random(seed);
    const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
    for (int i = 0; i < test::rounds(3000); ++i) {
      const std::size_t wanted = i / 300 % 2 == 0 ? 60 : 5;  // grows and shrinks by turns
      if (blocks.held() == 0 || below(60) < (blocks.held() < wanted ? 40u : 20u)) {
        blocks.allocate((1 + below(below(4) == 0 ? 200 : 12)) * kPage);
      } else {
        blocks.release(below(blocks.held()));
      }
      if (below(200) == 0) blocks.trim();
      blocks.check();
      if (HasFatalFailure()) return;
    }
  }
}

// Steps of a network: maps of several sizes that live until backward, others that end at once, gradients that pass
// from layer to layer, a buffer that stays from the end of the first step on. The memory backed stays within a
// twentieth of the most that was in use, and no step from the third on asks for more.
TEST(LargeBlocks, StepsOfANetworkNeedLittleMoreThanTheirPeak) {
  LargeBlocks blocks(std::size_t{1} << 34);
  std::size_t in_use = 0, peak = 0;
  const auto allocate = [&](std::size_t size) {
    in_use += size, peak = std::max(peak, in_use);
    return blocks.allocate(size);
  };
  const auto release = [&](std::byte* block, std::size_t size) {
    in_use -= size;
    blocks.release(block, size);
  };
  const std::size_t maps[] = {1845, 1845, 1152, 288, 1152, 1152, 144, 1152, 1152, 1004, 251, 1004, 1004, 31, 184, 46};
  const auto bytes = [&](std::size_t i) { return LargeBlocks::rounded(maps[i] * 100'000); };
  std::byte* stays = nullptr;
  std::uint64_t requests = 0;
  for (int step = 0; step < 4; ++step) {
    std::vector<std::byte*> kept;
    for (std::size_t i = 0; i < std::size(maps); ++i) {
      kept.push_back(allocate(bytes(i)));
      std::byte* ends = allocate(bytes(i) / kPage / 3 * kPage + kPage);
      release(ends, bytes(i) / kPage / 3 * kPage + kPage);
    }
    std::byte* gradient = allocate(bytes(std::size(maps) - 1));
    for (std::size_t i = std::size(maps); i-- > 1;) {
      std::byte *wide = allocate(2 * bytes(i)), *next = allocate(bytes(i - 1));
      release(wide, 2 * bytes(i));
      release(gradient, bytes(i));
      release(kept[i], bytes(i));
      gradient = next;
    }
    release(gradient, bytes(0));
    release(kept[0], bytes(0));
    if (!stays) stays = allocate(kHugePage);
    if (step > 1) {
      EXPECT_EQ(blocks.system_requests(), requests) << "step " << step;
    }
    requests = blocks.system_requests();
  }
  release(stays, kHugePage);
  EXPECT_LE(blocks.cached(), peak + peak / 20);
}

}  // namespace
}  // namespace dattn
