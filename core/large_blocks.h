// Large blocks of memory, cut out of reserved address space and joined with their neighbours when they are given back,
// so that what the system has backed stays near to the most that was in use at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dattn {

inline constexpr std::size_t kHugePage = std::size_t{2} << 20;  ///< of x86-64 and most of Arm

/// Best fit over a list of free blocks ordered by address. There are hundreds of blocks at most, of a megabyte and
/// more, so walking the list costs nothing beside using them. Not thread-safe: the pool (core/memory.h) has a lock.
///
/// A free block is backed (its pages may be used, and are kept for the next request) or not (bare address space).
/// Neighbours of one kind are always one block. Where no backed block is large enough, the one beside address space
/// that needs the least of it is made larger.
class LargeBlocks {
 public:
  static constexpr std::size_t kPage = std::size_t{64} << 10;  ///< whole pages of every system

  /// `range_bytes` of address space are reserved at a time, or as much as a block needs.
  explicit LargeBlocks(std::size_t range_bytes);
  ~LargeBlocks();
  LargeBlocks(const LargeBlocks&) = delete;
  LargeBlocks& operator=(const LargeBlocks&) = delete;

  /// What a block of `bytes` takes: whole pages.
  static constexpr std::size_t rounded(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

  /// A block of `size` bytes, whole pages and at least one, at the start of a page; contents undefined. Null where the
  /// system has no more.
  std::byte* allocate(std::size_t size);
  /// Gives back a block of allocate(size).
  void release(std::byte* block, std::size_t size) noexcept;
  /// Gives the memory of free blocks back to the system.
  void trim() noexcept;

  std::size_t cached() const;  ///< bytes of free blocks that are backed
  std::uint64_t system_requests() const { return system_requests_; }

  struct Free {
    std::byte* begin;
    std::size_t size;
    bool backed;
  };
  const std::vector<Free>& free_blocks() const { return free_; }  ///< by address

 private:
  bool back_more(std::size_t size);
  bool reserve(std::size_t size);
  void insert(const Free& block) noexcept;

  struct Range {
    void* begin;
    std::size_t size;
  };
  std::size_t range_bytes_;
  std::vector<Range> ranges_;
  std::vector<Free> free_;      // with room for every block that may be given back
  std::size_t handed_out_ = 0;  // blocks
  std::uint64_t system_requests_ = 0;
};

}  // namespace dattn
