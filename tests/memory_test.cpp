// The caching pool: size classes, reuse, statistics, scratch memory; and devices that a build does not have.
#include "core/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "core/elements.h"
#include "core/ops.h"
#include "error_text.h"

namespace dattn {
namespace {

using test::error_text;

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kCaching = false;  // the pool then caches nothing, so that errors show
#else
constexpr bool kCaching = true;
#endif

TEST(Pool, SizeClassesHoldWhatIsAskedForAndLittleMore) {
  std::vector<std::size_t> sizes;
  for (std::size_t bytes = 0; bytes <= 2100; ++bytes) sizes.push_back(bytes);
  for (int power = 11; power <= 25; ++power) {
    const std::size_t whole = std::size_t{1} << power, step = whole / 8;
    for (std::size_t eighth = 0; eighth < 8; ++eighth) {
      for (const std::size_t off : {std::size_t{0}, std::size_t{1}, step - 1})
        sizes.push_back(whole + eighth * step + off);
    }
  }
  for (const std::size_t bytes : sizes) {
    const std::size_t before = pool::statistics().in_use;
    auto* block = static_cast<unsigned char*>(pool::allocate(bytes));
    const std::size_t given = pool::statistics().in_use - before;
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(block) % kAlignment, 0u) << bytes;
    ASSERT_GE(given, bytes);
    ASSERT_LE(given, bytes + bytes / 8 + kAlignment) << bytes;
    if (bytes > 0) block[0] = block[bytes - 1] = 1;
    pool::release(block, bytes);
    ASSERT_EQ(pool::statistics().in_use, before);
  }
  pool::trim();
}

TEST(Pool, GivesTheSameBlockAgain) {
  if (!kCaching) GTEST_SKIP() << "the pool caches nothing under AddressSanitizer";
  void* first = pool::allocate(100'000);
  pool::release(first, 100'000);
  const auto requests = pool::statistics().system_requests;
  void* second = pool::allocate(99'999);
  EXPECT_EQ(second, first);
  EXPECT_EQ(pool::statistics().system_requests, requests);
  pool::release(second, 99'999);
}

TEST(Pool, CountsWhatIsCachedAndThePeak) {
  pool::trim();
  EXPECT_EQ(pool::statistics().cached, 0u);
  const std::size_t before = pool::statistics().in_use;
  pool::reset_peak();
  void* block = pool::allocate(1 << 19);
  pool::release(block, 1 << 19);
  EXPECT_EQ(pool::statistics().peak_in_use, before + (1 << 19));
  EXPECT_EQ(pool::statistics().cached, kCaching ? std::size_t{1} << 19 : 0u);
  pool::reset_peak();
  EXPECT_EQ(pool::statistics().peak_in_use, before);
  pool::trim();
  EXPECT_EQ(pool::statistics().cached, 0u);
}

TEST(Pool, LargeBlocksAreSplitAndJoined) {
  if (!kCaching) GTEST_SKIP() << "the pool caches nothing under AddressSanitizer";
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  pool::trim();
  const std::size_t before = pool::statistics().in_use;
  void* whole = pool::allocate(64 * kMiB);
  EXPECT_EQ(pool::statistics().in_use, before + 64 * kMiB);
  pool::release(whole, 64 * kMiB);
  EXPECT_EQ(pool::statistics().cached, 64 * kMiB);
  const auto requests = pool::statistics().system_requests;
  void *a = pool::allocate(40 * kMiB), *b = pool::allocate(24 * kMiB);
  EXPECT_EQ(pool::statistics().cached, 0u);
  std::memset(a, 1, 40 * kMiB), std::memset(b, 2, 24 * kMiB);
  EXPECT_EQ(static_cast<unsigned char*>(a)[40 * kMiB - 1], 1);
  pool::release(a, 40 * kMiB), pool::release(b, 24 * kMiB);
  void* again = pool::allocate(64 * kMiB);
  EXPECT_EQ(again, whole);
  EXPECT_EQ(pool::statistics().system_requests, requests);
  pool::release(again, 64 * kMiB);
  pool::trim();
  EXPECT_EQ(pool::statistics().cached, 0u);
  EXPECT_EQ(pool::statistics().in_use, before);
}

TEST(Pool, ASecondIdenticalStepAsksTheSystemForNothing) {
  if (!kCaching) GTEST_SKIP() << "the pool caches nothing under AddressSanitizer";
  Tensor x = Tensor::full({33, 17}, 0.5).track();
  const Tensor w = Tensor::full({17, 9}, 0.25);
  const auto step = [&] {
    const Tensor y = add(matmul(x, w), scale(matmul(x, w), 2));
    backward(mean(mul(y, permute(permute(y, {1, 0}), {1, 0}))));
  };
  step();
  step();  // the leaf's gradient exists from here on
  const auto requests = pool::statistics().system_requests;
  const auto in_use = pool::statistics().in_use;
  for (int i = 0; i < 5; ++i) step();
  EXPECT_EQ(pool::statistics().system_requests, requests);
  EXPECT_EQ(pool::statistics().in_use, in_use);
}

TEST(Pool, ThreadsShareIt) {
  const auto work = [](unsigned char mark) {
    for (int i = 0; i < 2000; ++i) {
      const auto size = static_cast<std::size_t>(64 + i % 700);
      Scratch<unsigned char> scratch(size);
      std::memset(scratch.data(), mark, size);
      for (std::size_t k = 0; k < size; k += 63) ASSERT_EQ(scratch[k], mark);
    }
  };
  const auto large_work = [](unsigned char mark) {
    for (std::size_t i = 0; i < 200; ++i) {
      const std::size_t size = (std::size_t{1} << 20) + i % 7 * 700'000;
      auto* block = static_cast<unsigned char*>(pool::allocate(size));
      for (std::size_t k = 0; k < size; k += 4096) block[k] = mark;
      for (std::size_t k = 0; k < size; k += 4096) ASSERT_EQ(block[k], mark);
      pool::release(block, size);
    }
  };
  const std::size_t before = pool::statistics().in_use;
  std::thread one(work, 1), two(work, 2), three(large_work, 3), four(large_work, 4);
  for (std::thread* thread : {&one, &two, &three, &four}) thread->join();
  EXPECT_EQ(pool::statistics().in_use, before);
}

TEST(Pool, RefusesWhatNoMachineHas) {
  EXPECT_EQ(error_text([] { pool::allocate(std::size_t{1} << 50); }),
            "memory: a block of 1125899906842624 bytes was asked for, which no machine has");
}

TEST(Pool, SaysWhereTheSystemHasNoMore) {
  const std::string text = error_text([] { pool::allocate(std::size_t{1} << 46); });
  EXPECT_TRUE(text.starts_with("memory: the system has no 70368744177664 bytes more (")) << text;
  EXPECT_TRUE(
      text.ends_with(" are in use)\nhint: work on fewer images at a time, in training by a smaller --batch-size"))
      << text;
}

TEST(Scratch, HoldsItsCountAndGivesItBack) {
  const std::size_t before = pool::statistics().in_use;
  {
    Scratch<double> scratch(1000);
    EXPECT_EQ(scratch.size(), 1000u);
    EXPECT_GE(pool::statistics().in_use, before + 8000);
    scratch[999] = 1;
    EXPECT_EQ(scratch.data()[999], 1);
  }
  EXPECT_EQ(pool::statistics().in_use, before);
}

TEST(Scratch, PooledVectorsAndPointersUseThePool) {
  const std::size_t before = pool::statistics().in_use;
  {
    std::vector<int, PoolAllocator<int>> numbers(100, 7);
    const auto pointer = make_pooled<std::vector<int, PoolAllocator<int>>>(numbers);
    EXPECT_GE(pool::statistics().in_use, before + 2 * 100 * sizeof(int));
    EXPECT_EQ((*pointer)[99], 7);
  }
  EXPECT_EQ(pool::statistics().in_use, before);
}

// --- a device of malloc, standing in for one that kernels may be missing on ---

class PretendDevice : public testing::Test {
 protected:
  void SetUp() override {
    cuda_memory.allocate = [](std::size_t bytes) { return std::malloc(bytes ? bytes : 1); };
    cuda_memory.release = [](void* block, std::size_t) noexcept { std::free(block); };
    cuda_memory.copy = [](void* to, Device, const void* from, Device, std::size_t bytes) {
      std::memcpy(to, from, bytes);
    };
    fill_elements.set_cuda([](Tensor& x, double value) {
      std::fill_n(reinterpret_cast<float*>(x.raw()), x.elements(), static_cast<float>(value));
    });
  }
  void TearDown() override {
    cuda_memory = before_;
    fill_elements.set_cuda(nullptr);
  }

 private:
  DeviceMemory before_ = cuda_memory;
};

int calls_on_cpu = 0, calls_on_cuda = 0;
constinit Kernel<void(double, const Tensor&, Tensor&)> probe{"probe",
                                                             [](double, const Tensor&, Tensor&) { ++calls_on_cpu; }};

TEST_F(PretendDevice, AKernelSlotGoesByItsFirstTensor) {
  Tensor here = Tensor::zeros({2}), there = here.to(Device::cuda);
  probe(1, here, here);
  EXPECT_EQ(calls_on_cpu, 1);
  EXPECT_EQ(error_text([&] { probe(1, there, there); }),
            "probe: no kernel for cuda\nhint: build with nvcc present, or move the tensors to the cpu");
  probe.set_cuda([](double, const Tensor&, Tensor&) { ++calls_on_cuda; });
  probe(1, there, there);
  EXPECT_EQ(calls_on_cuda, 1);
  EXPECT_EQ(calls_on_cpu, 1);
}

TEST_F(PretendDevice, TensorsMoveThereAndBack) {
  Tensor x = Tensor::from<float>({2, 2}, std::vector<float>{1, 2, 3, 4});
  Tensor there = x.to(Device::cuda);
  EXPECT_EQ(there.device(), Device::cuda);
  EXPECT_THROW(there.at(0), Error);
  EXPECT_EQ(there.slice(1, 2).to(Device::cpu).at(1), 4);
  there.fill(7);
  EXPECT_EQ(there.to(Device::cpu).at(3), 7);
  there.copy_from(x.to(Dtype::float64));
  EXPECT_EQ(there.to(Device::cpu).at(2), 3);
  EXPECT_EQ(Tensor::full({}, 5).to(Device::cuda).item(), 5);
}

TEST(Device, ABuildWithoutItSaysSo) {
  const DeviceMemory before = cuda_memory;
  cuda_memory = {};
  EXPECT_EQ(error_text([] { Tensor::empty({2}, Dtype::float32, Device::cuda); }),
            "memory: this build has no cuda device\nhint: build with nvcc present, or use the cpu");
  cuda_memory = before;
}

}  // namespace
}  // namespace dattn
