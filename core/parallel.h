// The thread pool: loops over fixed tiles, so that results do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <type_traits>

namespace dattn {

/// Threads that take part in parallel loops, the caller's included. Starts at the number of processors the process may
/// use.
int thread_count();
/// Sets that number (at least 1). Not to be called from inside a parallel loop.
void set_thread_count(int threads);

namespace detail {
using TileFunction = void (*)(void* context, std::int64_t begin, std::int64_t end);
void run_tiles(std::int64_t count, std::int64_t tile, TileFunction function, void* context);
}  // namespace detail

/// Calls f(begin, end) once for every tile [0, tile), [tile, 2 tile), ... of [0, count), on all threads. Tiles depend
/// on the arguments alone; a caller that sums over tiles keeps one partial sum a tile and adds them in order. The first
/// exception of a tile is rethrown here. A loop inside a tile runs in the tile's own thread.
template <typename F>
void parallel_for(std::int64_t count, std::int64_t tile, F&& f) {
  using Function = std::remove_reference_t<F>;
  detail::run_tiles(
      count, tile,
      [](void* context, std::int64_t begin, std::int64_t end) { (*static_cast<Function*>(context))(begin, end); },
      const_cast<std::remove_const_t<Function>*>(&f));
}

/// Whether the calling thread is inside a tile of a parallel loop (or a SerialScope), so that its loops run in it
/// alone.
bool inside_tile();

/// While one lives, the parallel loops of this thread run in it alone: for work that goes on beside a training step.
class SerialScope {
 public:
  SerialScope();
  ~SerialScope();
  SerialScope(const SerialScope&) = delete;
  SerialScope& operator=(const SerialScope&) = delete;

 private:
  bool before_;
};

/// Elements a tile of a loop over elements: large beside the cost of a fork, small beside the second-level cache.
inline constexpr std::int64_t kElementTile = 16384;

/// Number of tiles of parallel_for(count, tile).
constexpr std::int64_t tile_count(std::int64_t count, std::int64_t tile) { return (count + tile - 1) / tile; }
/// The least multiple of `tile` that is not below `count`.
constexpr std::int64_t round_up(std::int64_t count, std::int64_t tile) { return tile_count(count, tile) * tile; }

}  // namespace dattn
