// The device's memory: reuse, statistics, arenas, copies, and what is said where there is not enough.
#include "cuda/memory.h"

#include <gtest/gtest.h>

#include "core/tensor.h"
#include "cuda/enable.h"
#include "error_text.h"

namespace dattn::cuda {
namespace {

class DevicePool : public testing::Test {
 protected:
  void SetUp() override {
    enable();
    device_pool::trim();
  }
};

TEST_F(DevicePool, GivesTheSameBlockAgain) {
  if (!device_pool::caching()) GTEST_SKIP() << "the pool keeps no blocks here";
  void* first = device_pool::allocate(100'000);
  device_pool::release(first, 100'000);
  const auto requests = device_pool::statistics().system_requests;
  void* second = device_pool::allocate(99'000);
  EXPECT_EQ(second, first);
  EXPECT_EQ(device_pool::statistics().system_requests, requests);
  device_pool::release(second, 99'000);
}

TEST_F(DevicePool, TakesTheSmallestBlockThatFitsAndNoneMuchLarger) {
  if (!device_pool::caching()) GTEST_SKIP() << "the pool keeps no blocks here";
  void* large = device_pool::allocate(1 << 20);
  void* small = device_pool::allocate(900'000);
  device_pool::release(large, 1 << 20);
  device_pool::release(small, 900'000);
  void* fits = device_pool::allocate(880'000);
  EXPECT_EQ(fits, small);
  void* tiny = device_pool::allocate(1000);
  EXPECT_NE(tiny, large);
  device_pool::release(fits, 880'000);
  device_pool::release(tiny, 1000);
}

TEST_F(DevicePool, CountsWhatIsInUseCachedAndThePeak) {
  const std::size_t before = device_pool::statistics().in_use;
  device_pool::reset_peak();
  void* block = device_pool::allocate(1 << 20);
  EXPECT_EQ(device_pool::statistics().in_use, before + (1 << 20));
  device_pool::release(block, 1 << 20);
  EXPECT_EQ(device_pool::statistics().in_use, before);
  EXPECT_EQ(device_pool::statistics().peak_in_use, before + (1 << 20));
  EXPECT_EQ(device_pool::statistics().cached, device_pool::caching() ? std::size_t{1} << 20 : 0u);
  device_pool::trim();
  EXPECT_EQ(device_pool::statistics().cached, 0u);
}

TEST_F(DevicePool, AnArenaKeepsItsBlocks) {
  if (!device_pool::caching()) GTEST_SKIP() << "the pool keeps no blocks here";
  void* inside = nullptr;
  {
    const Arena arena;
    {
      const Arena::Scope scope(arena);
      inside = device_pool::allocate(5000);
      device_pool::release(inside, 5000);
    }
    void* outside = device_pool::allocate(5000);
    EXPECT_NE(outside, inside);
    {
      const Arena::Scope scope(arena);
      void* again = device_pool::allocate(5000);
      EXPECT_EQ(again, inside);
      device_pool::release(again, 5000);
    }
    device_pool::trim();  // not the arena's
    device_pool::release(outside, 5000);
  }
  device_pool::trim();
  EXPECT_EQ(device_pool::statistics().cached, 0u);
}

TEST_F(DevicePool, AnArenaTakesOverCommonBlocksUntilItEnds) {
  if (!device_pool::caching()) GTEST_SKIP() << "the pool keeps no blocks here";
  void* common = device_pool::allocate(5000);
  device_pool::release(common, 5000);
  const auto requests = device_pool::statistics().system_requests;
  {
    const Arena arena;
    {
      const Arena::Scope scope(arena);
      void* taken = device_pool::allocate(5000);
      EXPECT_EQ(taken, common);
      device_pool::release(taken, 5000);
    }
    EXPECT_EQ(device_pool::statistics().system_requests, requests);
    void* other = device_pool::allocate(5000);
    EXPECT_NE(other, common);
    device_pool::release(other, 5000);
  }
  device_pool::trim();
  EXPECT_EQ(device_pool::statistics().cached, 0u);
}

TEST_F(DevicePool, SaysHowMuchIsNeededAndFree) {
  const std::string text =
      test::error_text([] { Tensor::empty({std::int64_t{1} << 44}, Dtype::float32, Device::cuda); });
  EXPECT_NE(text.find("cuda: out of memory: 67108864.0 MiB more are needed, "), std::string::npos) << text;
  EXPECT_NE(text.find(" are free, this process uses "), std::string::npos) << text;
  EXPECT_NE(text.find("\nhint: try a smaller batch size"), std::string::npos) << text;
}

TEST_F(DevicePool, TensorsMoveThereAndBack) {
  const Tensor x = Tensor::from<float>({2, 2}, std::vector<float>{1, 2, 3, 4});
  const Tensor there = x.to(Device::cuda);
  EXPECT_EQ(there.device(), Device::cuda);
  EXPECT_EQ(there.slice(1, 2).clone().to(Device::cpu).at(1), 4);
  EXPECT_EQ(Tensor::zeros({0}).to(Device::cuda).to(Device::cpu).elements(), 0);
}

TEST_F(DevicePool, FillsAndConvertsOnTheDevice) {
  const Dtype all[] = {Dtype::float32, Dtype::float64, Dtype::bfloat16, Dtype::int64, Dtype::int32, Dtype::uint8};
  const std::vector<double> values{0, 1, 3, 100, 255};
  const Tensor x = Tensor::from<double>({5}, values).to(Device::cuda);
  for (const Dtype from : all) {
    Tensor filled = Tensor::empty({1000}, from, Device::cuda);
    for (const double value : {7.0, 0.0}) {
      filled.fill(value);
      for (const std::int64_t i : {0, 999}) EXPECT_EQ(filled.to(Device::cpu).at(i), value) << name(from);
    }
    for (const Dtype to : all) {
      const Tensor y = x.to(from).to(to).to(Device::cpu);
      EXPECT_EQ(y.dtype(), to);
      for (std::size_t i = 0; i < values.size(); ++i)
        EXPECT_EQ(y.at(static_cast<std::int64_t>(i)), values[i]) << name(from) << name(to);
    }
  }
}

}  // namespace
}  // namespace dattn::cuda
