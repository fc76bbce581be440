// Shared memory of the emulated device: one arena, and for every two bytes of it who accessed them last.
#include <algorithm>
#include <vector>

#include "device_state.h"

namespace dattn::emulation {

namespace {

constexpr std::size_t kAlignment = 128, kCellBytes = 2;

struct Declared {
  const void* key;
  SharedArray array;
};

struct Memory {
  alignas(kAlignment) std::byte bytes[kSharedBytes];
  std::vector<Cell> cells = std::vector<Cell>(kSharedBytes / kCellBytes);
  std::vector<Declared> declared;  // static arrays of this block
  std::size_t dynamic = 0, used = 0;
};

Memory& memory() {
  static auto* m = new Memory;
  return *m;
}

std::string element(const SharedArray& array, const std::byte* at, std::size_t bytes) {
  return fmt::format("shared memory '{}'[{}]", array.name, (at - array.data) / static_cast<std::ptrdiff_t>(bytes));
}

// Whether an access of the running thread comes after one of `thread` at the turn `turn` of its warp, in this interval.
bool ordered(int thread, std::uint32_t turn) {
  return thread == running.index || (thread / kWarp == running.index / kWarp && turn < *running.warp_turn);
}

[[noreturn]] void fail_race(const SharedArray& array, const std::byte* at, std::size_t bytes, const char* order,
                            const std::string& other) {
  fail_here("{} {} with no barrier after the access of {}", order, element(array, at, bytes), other);
}

std::string thread_text(int thread) {
  if (thread == kAtomic) return "an atomic operation";
  if (thread == kManyWarps) return "threads of several warps";
  if ((thread & kOneWarp) != 0) return "threads of its warp";
  return fmt::format("thread {} of the block", thread);
}

bool after_write(const Cell& cell, Access access) {
  if (cell.write_epoch != running.epoch) return true;
  if (cell.writer == kAtomic) return access == Access::atomic;
  return ordered(cell.writer, cell.write_turn);
}

bool after_reads(const Cell& cell) {
  if (cell.read_epoch != running.epoch) return true;
  if (cell.reader == kManyWarps) return false;
  if ((cell.reader & kOneWarp) == 0) return ordered(cell.reader, cell.read_turn);
  return (cell.reader & ~kOneWarp) == running.index / kWarp && cell.read_turn < *running.warp_turn;
}

void note_read(Cell& cell) {
  const std::uint32_t now = running.epoch;
  const auto self = static_cast<std::uint16_t>(running.index), warp = static_cast<std::uint16_t>(self / kWarp);
  if (cell.read_epoch != now) {
    cell.reader = self;
  } else if (cell.reader != self && cell.reader != kManyWarps) {
    const int before = (cell.reader & kOneWarp) != 0 ? cell.reader & ~kOneWarp : cell.reader / kWarp;
    if (before != warp) {
      cell.reader = kManyWarps;
    } else {  // reads before the warp's last __syncwarp come before whatever its threads write
      cell.reader = cell.read_turn < *running.warp_turn ? self : static_cast<std::uint16_t>(kOneWarp | warp);
    }
  }
  cell.read_epoch = now;
  cell.read_turn = *running.warp_turn;
}

}  // namespace

void begin_kernel_memory(std::size_t dynamic_bytes) {
  if (dynamic_bytes > kSharedBytes)
    throw Error(fmt::format("cuda emulation: no block has {} bytes of shared memory", dynamic_bytes));
  memory().dynamic = dynamic_bytes;
}

void begin_block_memory() {
  memory().declared.clear();
  memory().used = (memory().dynamic + kAlignment - 1) / kAlignment * kAlignment;
}

SharedArray shared_array(const void* key, const char* name, std::size_t bytes) {
  Memory& m = memory();
  const auto found =
      std::find_if(m.declared.begin(), m.declared.end(), [&](const Declared& d) { return d.key == key; });
  if (found != m.declared.end()) return found->array;
  const SharedArray array{name, m.bytes + m.used, bytes};
  m.used += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (m.used > kSharedBytes || m.used - std::min(m.used, m.dynamic) > kStaticSharedBytes + kAlignment)
    fail_here("declares more shared memory than a block has ('{}')", name);
  m.declared.push_back({key, array});
  return array;
}

SharedArray dynamic_shared(const char* name, std::size_t offset, std::size_t bytes) {
  Memory& m = memory();
  if (offset + bytes > m.dynamic) {
    fail_here("takes {} bytes of dynamic shared memory ('{}'), the launch gave {}", offset + bytes, name, m.dynamic);
  }
  return {name, m.bytes + offset, bytes};
}

void note_access(const SharedArray& array, const std::byte* at, std::size_t bytes, Access access) {
  if (at < array.data || at + bytes > array.data + array.bytes) {
    fail_here("accesses {}, which has {} elements", element(array, at, bytes), array.bytes / bytes);
  }
  if (reinterpret_cast<std::uintptr_t>(at) % bytes != 0)
    fail_here("accesses {} at an address that is no multiple of its size", element(array, at, bytes));
  const auto offset = static_cast<std::size_t>(at - memory().bytes);
  Cell* const end = memory().cells.data() + (offset + bytes) / kCellBytes;
  const auto self = static_cast<std::uint16_t>(running.index);
  for (Cell* cell = memory().cells.data() + offset / kCellBytes; cell < end; ++cell) {
    // Nothing is new where this thread has read the element since the last barrier, as a write would have cleared that.
    if (access == Access::read && cell->reader == self && cell->read_epoch == running.epoch &&
        cell->read_turn == *running.warp_turn)
      continue;
    const bool written = cell->write_epoch >= running.first_epoch;
    if (access != Access::write && !written) fail_here("reads {}, which nobody has written", element(array, at, bytes));
    if (!after_write(*cell, access)) {
      fail_race(array, at, bytes, access == Access::read ? "reads" : "writes", thread_text(cell->writer));
    }
    if (access == Access::read) {
      note_read(*cell);
      continue;
    }
    if (!after_reads(*cell)) fail_race(array, at, bytes, "writes", thread_text(cell->reader));
    cell->read_epoch = 0;
    cell->write_epoch = running.epoch;
    cell->write_turn = *running.warp_turn;
    cell->writer = access == Access::atomic ? kAtomic : self;
  }
}

}  // namespace dattn::emulation
