// Tensor cores and asynchronous copies of the emulated device.
#include "device.h"

#include <array>
#include <bit>
#include <vector>

#include "device_state.h"

namespace dattn::emulation {

namespace {

struct Copy {
  SharedPointer<std::uint16_t> to;
  const void* from;
  std::size_t bytes;
  bool valid;
  int group;
};

// The copies that one thread has begun and not waited for.
struct Copies {
  std::uint32_t block = 0;  // its first epoch
  int group = 0;
  std::vector<Copy> begun;
};

Copies& copies() {
  static auto* all = new std::vector<Copies>(1024);
  Copies& mine = (*all)[static_cast<std::size_t>(running.index)];
  if (mine.block != running.first_epoch) {
    mine.block = running.first_epoch;
    mine.group = 0;
    mine.begun.clear();
  }
  return mine;
}

// The value of the bfloat16 in the lower (0) or upper (1) half of a register.
float half_of(std::uint32_t r, int which) { return std::bit_cast<float>(which == 0 ? r << 16 : r & 0xffff0000u); }

}  // namespace

void begin_copy(const SharedPointer<std::uint16_t>& to, const void* from, std::size_t bytes, bool valid) {
  if (valid && reinterpret_cast<std::uintptr_t>(from) % bytes != 0)
    fail_here("copies from an address that is no multiple of its size");
  static const std::array<std::uint16_t, 8> kNothing{0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff};
  to.write(kNothing.data(), bytes);
  Copies& mine = copies();
  mine.begun.push_back({to, from, bytes, valid, mine.group});
}

void commit_copies() { ++copies().group; }

void end_copies(int pending) {
  Copies& mine = copies();
  std::vector<Copy> left;
  for (const Copy& copy : mine.begun) {
    if (copy.group >= mine.group - pending) {
      left.push_back(copy);
      continue;
    }
    static const std::array<std::byte, 16> kZeros{};
    copy.to.write(copy.valid ? copy.from : kZeros.data(), copy.bytes);
  }
  mine.begun = std::move(left);
}

void read_matrices(const SharedPointer<const bfloat16>& row, int count, bool transposed, std::uint32_t* r,
                   const Site& site) {
  struct Row {
    std::uint16_t elements[8];
  } mine{};
  if (lane() < 8 * count)
    row.read(&mine, sizeof(mine));  // the first 8 threads point to the rows of matrix 0, and so on
  const std::byte* rows = warp_exchange(WarpOperation::matrix, kFullMask, &mine, sizeof(mine), site);
  const int line = lane() / 4, pair = lane() % 4 * 2;
  for (int m = 0; m < count; ++m) {
    const auto element = [&](int i, int j) {
      Row there;
      std::memcpy(&there, rows + static_cast<std::size_t>(8 * m + i) * kExchangeBytes, sizeof(there));
      return std::uint32_t{there.elements[j]};
    };
    r[m] = transposed ? element(pair, line) | element(pair + 1, line) << 16
                      : element(line, pair) | element(line, pair + 1) << 16;
  }
}

void multiply_matrices(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const Site& site) {
  struct Operands {
    std::uint32_t a[4], b[2];
  } mine;
  std::memcpy(mine.a, a, sizeof(a));
  std::memcpy(mine.b, b, sizeof(b));
  const std::byte* all = warp_exchange(WarpOperation::matrix, kFullMask, &mine, sizeof(mine), site);
  const auto operands = [&](int of) {
    Operands there;
    std::memcpy(&there, all + static_cast<std::size_t>(of) * kExchangeBytes, sizeof(there));
    return there;
  };
  // A [16,16]: row g (and g + 8), columns 2t, 2t + 1 (and 8 more) lie in thread 4g + t; B [16,8]: the same of its
  // transpose.
  const int row = lane() / 4, column = lane() % 4 * 2;
  for (int k = 0; k < 16; ++k) {
    const int t = k % 8 / 2, half = k % 2, upper = k / 8;
    const Operands left = operands(4 * row + t);
    for (int j = 0; j < 2; ++j) {
      const float right = half_of(operands(4 * (column + j) + t).b[upper], half);
      d[j] += half_of(left.a[2 * upper], half) * right;
      d[2 + j] += half_of(left.a[2 * upper + 1], half) * right;
    }
  }
}

}  // namespace dattn::emulation
