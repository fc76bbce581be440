// Large blocks: the list of free ones, and the system calls below it.
#include "core/large_blocks.h"

#include <sys/mman.h>

#include <algorithm>
#include <iterator>

namespace dattn {

namespace {

constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;

// Address space without memory, in place of what is mapped at `at`, or anywhere.
void* map_bare(void* at, std::size_t size) {
  void* begin = mmap(at, size, PROT_NONE, kAnonymous | (at ? MAP_FIXED : 0), -1, 0);
  return begin == MAP_FAILED ? nullptr : begin;
}

bool back(std::byte* begin, std::size_t size) {
  if (mprotect(begin, size, PROT_READ | PROT_WRITE) != 0) return false;
  madvise(begin, size, MADV_HUGEPAGE);
  return true;
}

std::uintptr_t round_up(std::uintptr_t address, std::size_t step) { return (address + step - 1) / step * step; }

bool joins(const LargeBlocks::Free& a, const LargeBlocks::Free& b) {
  return a.begin + a.size == b.begin && a.backed == b.backed;
}

}  // namespace

LargeBlocks::LargeBlocks(std::size_t range_bytes) : range_bytes_(rounded(range_bytes)) {}

LargeBlocks::~LargeBlocks() {
  for (const Range& range : ranges_) munmap(range.begin, range.size);
}

std::byte* LargeBlocks::allocate(std::size_t size) {
  // Giving a block back makes the list longer by one at most; so do a new range, and backing a part of it.
  if (const std::size_t most = free_.size() + handed_out_ + 3; free_.capacity() < most) free_.reserve(2 * most);
  for (;;) {
    auto best = free_.end();
    for (auto block = free_.begin(); block != free_.end(); ++block) {
      if (block->backed && block->size >= size && (best == free_.end() || block->size < best->size)) best = block;
    }
    if (best != free_.end()) {
      std::byte* block = best->begin;
      best->begin += size, best->size -= size;
      if (best->size == 0) free_.erase(best);
      ++handed_out_;
      return block;
    }
    if (!back_more(size)) return nullptr;
  }
}

void LargeBlocks::release(std::byte* block, std::size_t size) noexcept {
  --handed_out_;
  insert({block, size, true});
}

void LargeBlocks::insert(const Free& block) noexcept {
  const auto after = std::lower_bound(free_.begin(), free_.end(), block.begin,
                                      [](const Free& a, const std::byte* begin) { return a.begin < begin; });
  auto at = free_.insert(after, block);
  if (const auto next = std::next(at); next != free_.end() && joins(*at, *next)) {
    at->size += next->size;
    free_.erase(next);
  }
  if (at != free_.begin() && joins(*std::prev(at), *at)) {
    std::prev(at)->size += at->size;
    free_.erase(at);
  }
}

// Backs more address space, such that a block of `size` will fit, or comes nearer to fitting; false where there is no
// more memory.
bool LargeBlocks::back_more(std::size_t size) {
  // Free blocks side by side, beginning with each in turn: the bytes to be backed until they hold `size`.
  auto chosen = free_.end();
  std::size_t fewest = 0;
  for (auto first = free_.begin(); first != free_.end(); ++first) {
    std::size_t missing = 0, held = 0;
    for (auto i = first; i != free_.end() && held < size && i->begin == first->begin + held; ++i) {
      const std::size_t taken = std::min(i->size, size - held);
      held += taken;
      if (!i->backed) missing += taken;
    }
    if (held == size && (chosen == free_.end() || missing < fewest)) chosen = first, fewest = missing;
  }
  if (chosen == free_.end()) return reserve(size);
  const std::size_t held = chosen->backed ? chosen->size : 0;
  if (chosen->backed) ++chosen;  // which is bare: backed neighbours are one block
  // To the end of a huge page, so that it can be one.
  const auto begin = reinterpret_cast<std::uintptr_t>(chosen->begin);
  const std::size_t more = std::min<std::size_t>(round_up(begin + (size - held), kHugePage) - begin, chosen->size);
  Free backed{chosen->begin, more, true};
  if (!back(backed.begin, more)) return false;
  ++system_requests_;
  chosen->begin += more, chosen->size -= more;
  if (chosen->size == 0) free_.erase(chosen);
  insert(backed);
  return true;
}

bool LargeBlocks::reserve(std::size_t size) {
  for (const std::size_t wanted : {std::max(size, range_bytes_), size}) {
    const std::size_t bytes = wanted + kHugePage;  // to begin with a huge page
    void* range = map_bare(nullptr, bytes);
    if (!range) continue;
    ranges_.push_back({range, bytes});
    const auto address = reinterpret_cast<std::uintptr_t>(range);
    const std::size_t ahead = round_up(address, kHugePage) - address;
    insert({static_cast<std::byte*>(range) + ahead, bytes - ahead, false});
    return true;
  }
  return false;
}

void LargeBlocks::trim() noexcept {
  for (Free& block : free_) {
    if (block.backed && map_bare(block.begin, block.size)) block.backed = false;
  }
  std::size_t kept = 0;
  for (std::size_t i = 1; i < free_.size(); ++i) {
    if (joins(free_[kept], free_[i])) {
      free_[kept].size += free_[i].size;
    } else {
      free_[++kept] = free_[i];
    }
  }
  if (!free_.empty()) free_.resize(kept + 1);
}

std::size_t LargeBlocks::cached() const {
  std::size_t bytes = 0;
  for (const Free& block : free_) bytes += block.backed ? block.size : 0;
  return bytes;
}

}  // namespace dattn
