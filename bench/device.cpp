// Measuring the device: a large product of random matrices, and a sweep over arrays far larger than its caches.
#include <algorithm>
#include <cmath>

#include "bench/machine.h"
#include "core/ops.h"
#include "core/random.h"
#include "cuda/stopwatch.h"

namespace dattn {

namespace {

constexpr int kTries = 5, kCallsPerTry = 4;

// Normal numbers, one block of them again and again: zeros would take less power, and so less time.
Tensor random_matrix(std::int64_t size, std::uint32_t lane, Dtype precision) {
  Tensor block = Tensor::empty({64, size});
  const Random random(1, Purpose::test, 0, lane);
  for (std::int64_t i = 0; i < block.elements(); ++i)
    block.data<float>()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  block = block.to(precision).to(Device::cuda);
  Tensor matrix = Tensor::empty({size, size}, precision, Device::cuda);
  for (std::int64_t row = 0; row < size; row += 64) matrix.slice(row, row + 64).copy_from(block);
  return matrix;
}

// Seconds of one call: the best of several tries.
double best_seconds(auto&& f) {
  f();
  cuda::Stopwatch watch;
  double best = 1e30;
  for (int i = 0; i < kTries; ++i) {
    watch.start();
    for (int j = 0; j < kCallsPerTry; ++j) f();
    best = std::min(best, watch.stop() * 1e-3 / kCallsPerTry);
  }
  return best;
}

double measure_operations(Dtype precision) {
  const std::int64_t size = precision == Dtype::bfloat16 ? 8192 : 4096;
  const Tensor a = random_matrix(size, 1, precision), b = random_matrix(size, 2, precision);
  Tensor y = Tensor::like(a);
  const double operations = 2 * std::pow(static_cast<double>(size), 3);
  return operations / best_seconds([&] { matmul_forward(a, Trans::no, b, Trans::no, y); });
}

double measure_bytes() {
  constexpr std::int64_t kElements = std::int64_t{128} << 20;  // two arrays of 512 MiB
  Tensor x = Tensor::empty({kElements}, Dtype::float32, Device::cuda), y = Tensor::like(x);
  x.fill(1);
  return 2 * static_cast<double>(x.bytes()) / best_seconds([&] { scale_forward(x, 0.5, y); });
}

}  // namespace

Machine measure_device(Dtype precision) { return {measure_operations(precision), measure_bytes()}; }

}  // namespace dattn
