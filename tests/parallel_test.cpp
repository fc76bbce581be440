// Parallel loops: every tile once with fixed boundaries, nested loops, exceptions, and the number of threads.
#include "core/parallel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/error.h"
#include "error_text.h"

namespace dattn {
namespace {

using test::error_text;

// Each test runs with three threads, whatever the machine has.
class Parallel : public testing::Test {
 protected:
  void SetUp() override { set_thread_count(3); }
  void TearDown() override { set_thread_count(before_); }

 private:
  int before_ = thread_count();
};

TEST_F(Parallel, EveryTileOnceWithFixedBoundaries) {
  for (const std::int64_t count : {0, 1, 6, 7, 8, 1000, 1001}) {
    for (const std::int64_t tile : {1, 7, 64, 5000}) {
      std::vector<std::atomic<int>> seen(static_cast<std::size_t>(count));
      std::atomic<std::int64_t> tiles{0};
      parallel_for(count, tile, [&](std::int64_t begin, std::int64_t end) {
        EXPECT_EQ(begin % tile, 0);
        EXPECT_EQ(end, std::min(count, begin + tile));
        for (std::int64_t i = begin; i < end; ++i) ++seen[static_cast<std::size_t>(i)];
        ++tiles;
      });
      for (const auto& times : seen) EXPECT_EQ(times, 1);
      EXPECT_EQ(tiles, tile_count(count, tile));
    }
  }
}

TEST_F(Parallel, AllThreadsTakePart) {
  std::atomic<int> arrived{0};
  parallel_for(3, 1, [&](std::int64_t, std::int64_t) {
    ++arrived;
    while (arrived < 3) std::this_thread::yield();  // returns only if three tiles run at the same time
  });
  EXPECT_EQ(arrived, 3);
}

TEST_F(Parallel, ALoopInsideATileRunsInItsThread) {
  std::atomic<int> elsewhere{0}, inner{0};
  parallel_for(20, 1, [&](std::int64_t, std::int64_t) {
    const auto here = std::this_thread::get_id();
    parallel_for(10, 3, [&](std::int64_t, std::int64_t) {
      ++inner;
      if (std::this_thread::get_id() != here) ++elsewhere;
    });
  });
  EXPECT_EQ(inner, 80);
  EXPECT_EQ(elsewhere, 0);
}

TEST_F(Parallel, AnExceptionComesBackAndThePoolGoesOn) {
  for (int round = 0; round < 20; ++round) {
    try {
      parallel_for(1000, 1, [](std::int64_t i, std::int64_t) {
        if (i == 17) throw std::runtime_error("tile 17");
      });
      FAIL();
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "tile 17");
    }
    std::atomic<int> sum{0};
    parallel_for(100, 1, [&](std::int64_t, std::int64_t) { ++sum; });
    EXPECT_EQ(sum, 100);
  }
}

TEST_F(Parallel, AnExceptionOfANestedLoopComesBackToo) {
  EXPECT_THROW(parallel_for(8, 1,
                            [](std::int64_t, std::int64_t) {
                              parallel_for(8, 1, [](std::int64_t, std::int64_t) { fail("inside"); });
                            }),
               Error);
}

TEST_F(Parallel, TwoCallersTakeTurns) {
  std::atomic<int> sum{0};
  const auto work = [&] {
    for (int i = 0; i < 200; ++i) parallel_for(10, 1, [&](std::int64_t, std::int64_t) { ++sum; });
  };
  std::thread other(work);
  work();
  other.join();
  EXPECT_EQ(sum, 4000);
}

TEST_F(Parallel, TheNumberOfThreadsIsSetOutsideOfLoops) {
  for (const int threads : {1, 2, 5}) {
    set_thread_count(threads);
    EXPECT_EQ(thread_count(), threads);
    std::atomic<int> sum{0};
    parallel_for(100, 1, [&](std::int64_t, std::int64_t) { ++sum; });
    EXPECT_EQ(sum, 100);
  }
  EXPECT_EQ(error_text([] { set_thread_count(0); }), "threads: expected at least 1, got 0");
  EXPECT_EQ(error_text([] { parallel_for(10, 1, [](std::int64_t, std::int64_t) { set_thread_count(2); }); }),
            "threads: the number cannot change inside a parallel loop");
  EXPECT_EQ(error_text([] { parallel_for(10, 0, [](std::int64_t, std::int64_t) {}); }),
            "parallel_for: expected a tile of at least 1, got 0");
}

}  // namespace
}  // namespace dattn
