// Rows of tables: device twins of core/rows.cpp.
#include "core/rows.h"

#include "cuda/common.cuh"
#include "cuda/kernels.h"

namespace dattn::cuda {

namespace {

template <typename Word>
__device__ Word all_ones() {
  return static_cast<Word>(~Word{0});
}
template <>
__device__ uint4 all_ones<uint4>() {
  return {~0u, ~0u, ~0u, ~0u};
}

template <typename Word>
struct TakeRow {
  const Word* table;
  const std::int64_t* index;
  std::int64_t rows, words;  // of the table, of a row
  Word* y;
  __device__ void operator()(std::int64_t i) const {
    const std::int64_t row = *index;
    y[i] = row >= 0 && row < rows ? table[row * words + i] : all_ones<Word>();
  }
};

struct Advance {
  std::int64_t* index;
  __device__ void operator()(std::int64_t) const { ++*index; }
};

// Whether all rows consist of whole words and begin at multiples of one.
bool in_words(const Tensor& table, const Tensor& y, std::size_t word) {
  const auto starts = [word](const Tensor& x) { return reinterpret_cast<std::uintptr_t>(x.raw()) % word == 0; };
  return y.bytes() % word == 0 && starts(table) && starts(y);
}

template <typename Word>
void take_words(const Tensor& table, const Tensor& index, Tensor& y) {
  const auto words = static_cast<std::int64_t>(y.bytes() / sizeof(Word));
  for_each_item("take_row", words,
                TakeRow<Word>{reinterpret_cast<const Word*>(table.raw()), index.data<std::int64_t>(), table.size(0),
                              words, reinterpret_cast<Word*>(y.raw())});
}

}  // namespace

void take_row_cuda(const Tensor& table, const Tensor& index, Tensor& y) {
  check_row(table, index, y);
  if (in_words(table, y, sizeof(uint4))) {
    take_words<uint4>(table, index, y);
  } else if (in_words(table, y, sizeof(std::uint32_t))) {
    take_words<std::uint32_t>(table, index, y);
  } else {
    take_words<std::uint8_t>(table, index, y);
  }
}

void advance_cuda(Tensor& index) { for_each_item("advance", 1, Advance{index.data<std::int64_t>()}); }

}  // namespace dattn::cuda
