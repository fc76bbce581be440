// The emulated device: right kernels give their results, and every check finds a kernel that is wrong on purpose.
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "cuda/common.cuh"
#include "cuda/enable.h"

namespace dattn::cuda {
namespace {

// Numbers on the device, and back.
struct Numbers {
  Tensor tensor;
  explicit Numbers(std::int64_t n) : tensor(Tensor::zeros({n}, Dtype::float32, Device::cuda)) {}
  operator float*() { return tensor.data<float>(); }
  std::vector<float> values() const {
    const Tensor here = tensor.to(Device::cpu);
    return {here.values<float>().begin(), here.values<float>().end()};
  }
};

class Emulation : public testing::Test {
 protected:
  void SetUp() override { enable(); }
  void TearDown() override { emulation::set_reversed(false); }
};

// The text of the check that stops the kernel, with the part before its block's place cut off.
template <typename... P, typename... A>
std::string found(void (*kernel)(P...), const Grid& grid, const A&... arguments) {
  try {
    launch("wrong", kernel, grid, arguments...);
  } catch (const emulation::Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("wrong"), std::string::npos) << text;
    return text;
  }
  return "nothing was found";
}

#define EXPECT_FOUND(text, ...)                                  \
  do {                                                           \
    const std::string message = found(__VA_ARGS__);              \
    EXPECT_NE(message.find(text), std::string::npos) << message; \
  } while (false)

// --- right kernels ---

__global__ void place_kernel(float* y) {
  const std::int64_t i =
      (blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x * blockDim.y + threadIdx.y * blockDim.x + threadIdx.x;
  y[i] = static_cast<float>(i);
}

TEST_F(Emulation, RunsEveryThreadOnce) {
  Numbers y(2 * 3 * 64);
  launch("place", place_kernel, {dim3(3, 2), dim3(16, 4)}, static_cast<float*>(y));
  std::vector<float> expected(2 * 3 * 64);
  std::iota(expected.begin(), expected.end(), 0.0f);
  EXPECT_EQ(y.values(), expected);
}

__global__ void reverse_kernel(const float* x, float* y) {
  DATTN_SHARED(float, tile, 128);
  const auto t = static_cast<int>(threadIdx.x);
  tile[t] = x[t];
  __syncthreads();
  y[t] = tile[127 - t];
}

TEST_F(Emulation, ABarrierOrdersTheBlock) {
  for (const bool reversed : {false, true}) {
    emulation::set_reversed(reversed);
    Numbers x(128), y(128);
    launch("place", place_kernel, {1, 128}, static_cast<float*>(x));
    launch("reverse", reverse_kernel, {3, 128}, static_cast<float*>(x), static_cast<float*>(y));
    for (int i = 0; i < 128; ++i) EXPECT_EQ(y.values()[static_cast<std::size_t>(i)], static_cast<float>(127 - i));
  }
}

__global__ void sums_kernel(float* y) {
  DATTN_SHARED(float, scratch, 8);
  const auto x = static_cast<float>(threadIdx.x);
  const float sum = block_sum(x, scratch), most = block_max(x, scratch), lanes = warp_sum(x);
  store(y + threadIdx.x, sum * 1000 + most);
  store(y + 256 + threadIdx.x, lanes);
}

TEST_F(Emulation, SumsOfWarpsAndBlocks) {
  Numbers y(512);
  launch("sums", sums_kernel, {1, 256}, static_cast<float*>(y));
  const auto values = y.values();
  for (std::size_t i = 0; i < 256; ++i) {
    EXPECT_EQ(values[i], 255.0f * 128 * 1000 + 255);
    EXPECT_EQ(values[256 + i], static_cast<float>(32 * 31 / 2 + i / 32 * 32 * 32));
  }
}

__global__ void votes_kernel(float* y) {
  const int lane = lane_index();
  const unsigned odd = __ballot_sync(kFullWarp, lane % 2);
  const int next = __shfl_down_sync(kFullWarp, lane, 1), first = __shfl_sync(kFullWarp, lane, 0, 8);
  const int any = __any_sync(kFullWarp, lane == 7), all = __all_sync(kFullWarp, lane < 31);
  y[threadIdx.x] =
      static_cast<float>((odd == 0xaaaaaaaau ? 1 : 0) + 10 * any + 100 * all + 1000 * next + 100000 * first);
}

TEST_F(Emulation, VotesAndShuffles) {
  Numbers y(64);
  launch("votes", votes_kernel, {1, 64}, static_cast<float*>(y));
  for (int i = 0; i < 64; ++i) {
    const int lane = i % 32;
    EXPECT_EQ(y.values()[static_cast<std::size_t>(i)],
              static_cast<float>(11 + 1000 * std::min(lane + 1, 31) + 100000 * (lane / 8 * 8)));
  }
}

// Each warp hands values to its neighbouring lane through shared memory, ordered by __syncwarp alone.
__global__ void neighbours_kernel(float* y) {
  DATTN_SHARED(float, tile, 64);
  const auto t = static_cast<int>(threadIdx.x);
  for (int turn = 0; turn < 3; ++turn) {
    tile[t] = static_cast<float>(t + turn);
    __syncwarp();
    const float sum = tile[t ^ 1] + tile[t ^ 2];
    __syncwarp();
    if (turn == 2) y[t] = sum;
  }
}

TEST_F(Emulation, ASyncOfTheWarpOrdersTheWarp) {
  Numbers y(64);
  launch("neighbours", neighbours_kernel, {1, 64}, static_cast<float*>(y));
  for (int t = 0; t < 64; ++t)
    EXPECT_EQ(y.values()[static_cast<std::size_t>(t)], static_cast<float>((t ^ 1) + (t ^ 2) + 4));
}

// y [16,8] = x [16,16] x[0:8]^T by one tensor-core instruction, through matrices in shared memory.
__global__ void matrices_kernel(const bfloat16* x, float* y) {
  DATTN_SHARED(bfloat16, tile, 256);
  const int lane = lane_index();
  copy_async<16>(tile + lane * 8, x + lane * 8);
  copy_async_commit();
  copy_async_wait<0>();
  __syncwarp();
  std::uint32_t a[4], b[2];
  load_matrices(a, tile + (lane % 16) * 16 + lane / 16 * 8);
  load_matrices(b, tile + (lane % 8) * 16 + lane / 8 % 2 * 8);
  float d[4] = {};
  mma_bfloat16(d, a, b);
  const int row = lane / 4, column = lane % 4 * 2;
  for (int i = 0; i < 4; ++i) y[(row + i / 2 * 8) * 8 + column + i % 2] = d[i];
}

TEST_F(Emulation, TensorCoresMultiply) {
  Tensor x = Tensor::empty({16, 16}, Dtype::bfloat16);
  for (int i = 0; i < 256; ++i) x.data<bfloat16>()[i] = bfloat16(static_cast<float>(i * 37 % 19 - 9));
  const Tensor there = x.to(Device::cuda);
  Numbers y(128);
  launch("matrices", matrices_kernel, {1, 32}, there.data<bfloat16>(), static_cast<float*>(y));
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += static_cast<float>(x.at(16 * i + k) * x.at(16 * j + k));
      EXPECT_EQ(y.values()[static_cast<std::size_t>(8 * i + j)], sum) << i << " " << j;
    }
  }
}

__global__ void dynamic_kernel(float* y) {
  DynamicShared shared;
  const auto a = shared.take<float>(33);
  const auto counts = shared.take<int>(4);
  const auto t = static_cast<int>(threadIdx.x);
  a[t] = static_cast<float>(t);
  if (t < 4) counts[t] = 0;
  __syncthreads();
  atomic_add(counts + t % 4, t);
  __syncthreads();
  const int count = counts[t % 4];
  y[t] = a[31 - t] + static_cast<float>(1000 * count);
}

TEST_F(Emulation, DynamicSharedMemoryAndAtomics) {
  Numbers y(32);
  launch("dynamic", dynamic_kernel, {1, 32, shared_bytes<float>(33) + shared_bytes<int>(4)}, static_cast<float*>(y));
  for (int t = 0; t < 32; ++t) {
    EXPECT_EQ(y.values()[static_cast<std::size_t>(t)], static_cast<float>(31 - t + 1000 * (8 * (t % 4) + 4 * 28)));
  }
}

TEST_F(Emulation, ACapturedGraphRunsAgainAndAgain) {
  Numbers y(128), x(128);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check_cuda(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "capture");
  launch("place", place_kernel, {1, 128}, static_cast<float*>(x));
  y.tensor.copy_from(x.tensor);
  check_cuda(cudaStreamEndCapture(stream(), &graph), "capture");
  EXPECT_EQ(y.values()[5], 0);
  check_cuda(cudaGraphInstantiate(&exec, graph, 0), "graph");
  check_cuda(cudaGraphDestroy(graph), "graph");
  for (int i = 0; i < 2; ++i) {
    x.tensor.fill(0);
    check_cuda(cudaGraphLaunch(exec, stream()), "graph");
    EXPECT_EQ(y.values()[5], 5);
  }
  check_cuda(cudaGraphExecDestroy(exec), "graph");
}

// --- kernels that are wrong on purpose ---

__global__ void reads_unwritten_kernel(float* y) {
  DATTN_SHARED(float, tile, 64);
  if (threadIdx.x != 5) tile[static_cast<int>(threadIdx.x)] = 1;
  __syncthreads();
  y[threadIdx.x] = tile[static_cast<int>(threadIdx.x)];
}

TEST_F(Emulation, FindsReadsThatNobodyWrote) {
  Numbers y(64);
  EXPECT_FOUND("block (0,0,0), thread (5,0,0): reads shared memory 'tile'[5], which nobody has written",
               reads_unwritten_kernel, {2, 64}, static_cast<float*>(y));
}

__global__ void writes_in_the_first_block_kernel(float* y) {
  DATTN_SHARED(float, tile, 64);
  if (blockIdx.x == 0) tile[static_cast<int>(threadIdx.x)] = 1;
  __syncthreads();
  y[threadIdx.x] = tile[static_cast<int>(threadIdx.x)];
}

TEST_F(Emulation, SharedMemoryDoesNotOutliveItsBlock) {
  Numbers y(64);
  EXPECT_FOUND("block (1,0,0), thread (63,0,0): reads shared memory 'tile'[63], which nobody has written",
               writes_in_the_first_block_kernel, {2, 64}, static_cast<float*>(y));
}

__global__ void no_barrier_kernel(float* y) {
  DATTN_SHARED(float, tile, 65);
  const auto t = static_cast<int>(threadIdx.x);
  if (t == 0) tile[64] = 0;
  tile[t] = 1;
  __syncwarp();  // orders within warps, not between them
  y[t] = tile[(t + 1) % 64];
}

__global__ void write_after_read_kernel(float* y) {
  DATTN_SHARED(float, tile, 64);
  const auto t = static_cast<int>(threadIdx.x);
  tile[t] = 1;
  __syncthreads();
  y[t] = tile[(t + 1) % 64];
  tile[t] = 2;  // its reader may come later
}

__global__ void two_writers_kernel(float*) {
  DATTN_SHARED(bfloat16, tile, 32);
  store(tile + static_cast<int>(threadIdx.x) / 2, 1.0f);
}

__global__ void shuffle_is_no_barrier_kernel(float* y) {
  DATTN_SHARED(float, tile, 32);
  const auto t = static_cast<int>(threadIdx.x);
  tile[t] = 1;
  y[t] = static_cast<float>(__shfl_xor_sync(kFullWarp, t, 1));
  y[t] += tile[t ^ 1];
}

TEST_F(Emulation, FindsRacesBetweenThreadsOfABlock) {
  Numbers y(64);
  EXPECT_FOUND(
      "thread (0,0,0): writes shared memory 'tile'[0] with no barrier after the access of thread 63 of the block",
      write_after_read_kernel, {1, 64}, static_cast<float*>(y));
  EXPECT_FOUND("reads shared memory 'tile'", no_barrier_kernel, {1, 64}, static_cast<float*>(y));
  EXPECT_FOUND("thread (1,0,0): writes shared memory 'tile'[0] with no barrier after the access of thread 0",
               two_writers_kernel, {1, 32}, static_cast<float*>(y));
  EXPECT_FOUND("with no barrier after", shuffle_is_no_barrier_kernel, {1, 32}, static_cast<float*>(y));
}

__global__ void leaves_early_kernel(float* y) {
  if (threadIdx.x == 40) return;
  __syncthreads();
  y[threadIdx.x] = 1;
}

__global__ void two_barriers_kernel(float* y) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  y[threadIdx.x] = 1;
}

__global__ void barrier_against_shuffle_kernel(float* y) {
  if (threadIdx.x == 3) {
    __syncthreads();
  } else {
    y[threadIdx.x] = warp_sum(1);
  }
}

TEST_F(Emulation, FindsThreadsThatMissABarrier) {
  Numbers y(64);
  EXPECT_FOUND("waits at a barrier (emulation_test.cpp:", leaves_early_kernel, {1, 64}, static_cast<float*>(y));
  EXPECT_FOUND("but thread (40,0,0) has ended", leaves_early_kernel, {1, 64}, static_cast<float*>(y));
  EXPECT_FOUND("while thread (0,0,0) waits at another", two_barriers_kernel, {1, 64}, static_cast<float*>(y));
  EXPECT_FOUND("waits for its warp (", barrier_against_shuffle_kernel, {1, 32}, static_cast<float*>(y));
}

__global__ void missing_lane_kernel(float* y) {
  if (threadIdx.x != 9) y[threadIdx.x] = warp_sum(1);
}

__global__ void outside_of_the_mask_kernel(float* y) { y[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 0); }

__global__ void from_outside_of_the_mask_kernel(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 20);
}

TEST_F(Emulation, FindsThreadsMissingFromAShuffle) {
  Numbers y(32);
  EXPECT_FOUND("waits for its warp (common.cuh:", missing_lane_kernel, {1, 32}, static_cast<float*>(y));
  EXPECT_FOUND("but thread (9,0,0) has ended", missing_lane_kernel, {1, 32}, static_cast<float*>(y));
  EXPECT_FOUND("thread (16,0,0): is missing from the mask", outside_of_the_mask_kernel, {1, 32},
               static_cast<float*>(y));
  EXPECT_FOUND("shuffles from lane 20", from_outside_of_the_mask_kernel, {1, 32}, static_cast<float*>(y));
}

__global__ void beyond_the_end_kernel(float* y) {
  DATTN_SHARED(float, tile, 32);
  DATTN_SHARED(float, other, 32);
  tile[static_cast<int>(threadIdx.x)] = 1;
  other[static_cast<int>(threadIdx.x)] = 1;
  __syncthreads();
  y[threadIdx.x] = tile[static_cast<int>(threadIdx.x) + 1];
}

__global__ void takes_too_much_kernel(float*) {
  DynamicShared shared;
  shared.take<float>(10);
  shared.take<float>(10);
}

TEST_F(Emulation, FindsAccessesOutsideOfAnArray) {
  Numbers y(32);
  EXPECT_FOUND("thread (31,0,0): accesses shared memory 'tile'[32], which has 32 elements", beyond_the_end_kernel,
               {1, 32}, static_cast<float*>(y));
  EXPECT_FOUND("takes 88 bytes of dynamic shared memory ('dynamic'), the launch gave 80", takes_too_much_kernel,
               {1, 32, 80}, static_cast<float*>(y));
}

__global__ void does_not_wait_kernel(const float* x, float* y) {
  DATTN_SHARED(float, tile, 128);
  const auto t = static_cast<int>(threadIdx.x);
  copy_async<16>(tile + 4 * t, x + 4 * t);
  copy_async_commit();
  y[t] = tile[4 * t];
  copy_async_wait<0>();
}

TEST_F(Emulation, AnAsynchronousCopyArrivesAtItsWait) {
  Numbers x(128), y(32);
  launch("early", does_not_wait_kernel, {1, 32}, static_cast<float*>(x), static_cast<float*>(y));
  EXPECT_TRUE(std::isnan(y.values()[3]));
}

TEST_F(Emulation, RefusesPointersToTheHostAndOddBlocks) {
  float here[64];
  Numbers y(64);
  EXPECT_FOUND("an argument points to host memory", place_kernel, {1, 32}, &here[0]);
  EXPECT_FOUND("a block of 33 threads", place_kernel, {1, 33}, static_cast<float*>(y));
  EXPECT_THROW(check_cuda(cudaMemcpyAsync(here, here, 4, cudaMemcpyDeviceToHost, stream()), "copy"), emulation::Error);
}

#if !defined(__SANITIZE_ADDRESS__)
TEST(EmulationDeathTest, TheHostMayNotTouchDeviceMemory) {
  enable();
  Numbers y(64);
  EXPECT_DEATH(std::fill_n(static_cast<float*>(y), 64, 1.0f), "");
}
#endif

}  // namespace
}  // namespace dattn::cuda
