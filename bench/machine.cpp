// Measuring the machine: independent multiply-adds in registers, or tile blocks, and y = a x + y over large arrays.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/machine.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <chrono>
#include <vector>

#include "bench/machine.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "core/tile_block.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// Multiply-adds that do not wait for each other; returns how many operations they were.
double MultiplyAdds(std::int64_t rounds, float* result) {
  constexpr int kSums = 12;  // 4 to 5 cycles of latency, two a cycle
  const Wide<float> d;
  hn::Vec<Wide<float>> sum[kSums];
  for (int i = 0; i < kSums; ++i) sum[i] = hn::Set(d, static_cast<float>(i));
  const auto a = hn::Set(d, *result), b = hn::Set(d, 0.5f);
  for (std::int64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kSums; ++i) sum[i] = hn::MulAdd(sum[i], b, a);
  }
  for (int i = 1; i < kSums; ++i) sum[0] = hn::Add(sum[0], sum[i]);
  *result = hn::GetLane(hn::SumOfLanes(d, sum[0]));
  return static_cast<double>(rounds) * kSums * 2 * static_cast<double>(hn::Lanes(d));
}

void Axpy(std::int64_t n, const float* x, float* y) { axpy(n, 0.5f, x, y); }

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(MultiplyAdds);
HWY_EXPORT(Axpy);

namespace {

double seconds_of(auto&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

constexpr int kTries = 5;

// Blocks of 32 x 32 sums from factors in the nearest cache; returns how many operations they were.
double multiply_tiles(TileBlockFunction multiply, std::int64_t rounds) {
  constexpr std::int64_t kSide = 2 * kTileSide, kSteps = 8, kTerms = kSteps * kTileDepth;
  const std::vector<bfloat16> a(kSide * kTerms, bfloat16(1.0f)), b(a);
  std::vector<float> c(kSide * kSide);
  std::vector<std::int64_t> offsets;
  for (std::int64_t s = 0; s < kSteps; ++s) offsets.push_back(s * kTileDepth);
  const TileBlock block{
      2,      2,        a.data(), kTerms, offsets.data(), b.data(), 4 * kTileSide, 2 * kTileSide, kTileDepth * kSide,
      kSteps, c.data(), kSide,    false};
  for (std::int64_t r = 0; r < rounds; ++r) multiply(block);
  return static_cast<double>(rounds) * 2 * kSide * kSide * kTerms;
}

double measure_operations(Dtype precision) {
  const TileBlockFunction tiles = precision == Dtype::bfloat16 ? tile_block() : nullptr;
  const int threads = thread_count();
  std::vector<float> results(static_cast<std::size_t>(threads) * 16, 1.0f);  // a cache line each
  double best = 0, operations = 0;
  for (int i = 0; i < kTries; ++i) {
    const double seconds = seconds_of([&] {
      parallel_for(threads, 1, [&](std::int64_t t, std::int64_t) {
        const double done =
            tiles ? multiply_tiles(tiles, 20'000)
                  : HWY_DYNAMIC_DISPATCH(MultiplyAdds)(4'000'000, &results[static_cast<std::size_t>(t) * 16]);
        if (t == 0) operations = done * threads;
      });
    });
    best = std::max(best, operations / seconds);
  }
  return best;
}

double measure_bytes() {
  constexpr std::int64_t kElements = 32 << 20, kTile = 1 << 18;  // two arrays of 128 MiB
  std::vector<float> x(kElements, 1.0f), y(kElements, 1.0f);
  double best = 0;
  for (int i = 0; i < kTries; ++i) {
    const double seconds = seconds_of([&] {
      parallel_for(kElements, kTile, [&](std::int64_t begin, std::int64_t end) {
        HWY_DYNAMIC_DISPATCH(Axpy)(end - begin, x.data() + begin, y.data() + begin);
      });
    });
    best = std::max(best, 3.0 * kElements * sizeof(float) / seconds);
  }
  return best;
}

}  // namespace

Machine measure_machine(Dtype precision) { return {measure_operations(precision), measure_bytes()}; }

}  // namespace dattn
#endif
