// DAttention on a map whose score matrix no machine holds: forward and backward on 1024 x 1024 pixels of 64 channels
// with 8 heads, a sample for every 8 x 8 pixels and the relative position table. Prints time and peak memory. usage:
// large_image [SIZE]   pixels on a side, a multiple of 8 [1024]
#include <sys/resource.h>

#include <charconv>
#include <chrono>
#include <cstring>

#include "core/ops.h"
#include "core/output.h"
#include "core/parallel.h"
#include "layers/dattention.h"

using namespace dattn;

namespace {

double seconds_of(auto&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double peak_gib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / (1 << 20);
}

// At once, also where output is no terminal: the lines are minutes apart.
template <typename... Args>
void print_line(fmt::format_string<Args...> format, Args&&... args) {
  print_output(format, std::forward<Args>(args)...);
  flush_output();
}

int run(std::int64_t size) {
  constexpr std::int64_t kChannels = 64, kHeads = 8, kStride = 8;
  Random random(0, Purpose::init);
  DAttention attention({.channel = kChannels,
                        .q_h = size,
                        .q_w = size,
                        .n_heads = kHeads,
                        .stride = kStride,
                        .dwc_pe = false,
                        .ksize = 9},
                       random);
  Tensor x = Tensor::empty({1, size, size, kChannels});
  for (std::int64_t i = 0; i < x.elements(); ++i) x.data<float>()[i] = 2 * random.next_uniform() - 1;
  x.track();

  const auto pixels = static_cast<double>(size * size), samples = pixels / (kStride * kStride);
  print_line("map {0} x {0} x {1}, {2} heads, {3:.0f} samples, {4} threads\n", size, kChannels, kHeads, samples,
             thread_count());
  print_line("scores of all heads, were they held: {:.1f} GB\n", pixels * samples * kHeads * sizeof(float) / 1e9);
  Tensor y;
  print_line("forward   {:9.1f} s\n", seconds_of([&] { y = attention(x); }));
  print_line("backward  {:9.1f} s\n", seconds_of([&] { backward(sum(y)); }));
  print_line("peak      {:9.2f} GiB of resident memory\n", peak_gib());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::int64_t size = 1024;
  if (argc > 1) {
    const char* end = argv[1] + std::strlen(argv[1]);
    const auto [last, error] = std::from_chars(argv[1], end, size);
    if (argc > 2 || error != std::errc() || last != end || size < 8 || size % 8 != 0) {
      print_error("usage: large_image [SIZE]   pixels on a side, a multiple of 8 [1024]\n");
      return 2;
    }
  }
  return run_program("large_image", [&] { return run(size); });
}
