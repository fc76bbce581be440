// The thread pool. Workers wait on a generation counter and join a loop while it is open. Each thread has a stretch of
// the loop's tiles, the same in every loop of the same length, so that what one loop leaves in a processor's caches is
// there for the next; whoever is done with its own takes tiles of the others'.
#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/machine_limits.h"

namespace dattn {

namespace {

thread_local bool in_tile = false;  // or inside a SerialScope: loops run in this thread

// Tells the processor that this is a waiting loop.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class ThreadPool {
 public:
  explicit ThreadPool(int threads) : stretches_(static_cast<std::size_t>(threads)) {
    try {
      for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
    } catch (const std::exception& error) {  // those that there are must not wait for loops for ever
      const int got = size();
      stop();
      fail("threads: the system gives {} of {} ({})\nhint: ask for fewer by --threads", got, threads, error.what());
    }
  }
  ~ThreadPool() { stop(); }

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  void run(std::int64_t count, std::int64_t tile, detail::TileFunction function, void* context) {
    std::scoped_lock one_loop_at_a_time(loop_mutex_);
    count_ = count, tile_ = tile, function_ = function, context_ = context;
    share_out(tile_count(count, tile));
    {
      std::scoped_lock lock(mutex_);
      state_.fetch_add(kGeneration + kOpen, std::memory_order_release);
    }
    start_.notify_all();
    take_tiles(0);
    state_.fetch_and(~kOpen, std::memory_order_acq_rel);
    wait_for_workers();
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  void stop() {
    {
      std::scoped_lock lock(mutex_);
      stopping_ = true;
      state_.fetch_add(kGeneration, std::memory_order_release);
    }
    start_.notify_all();
    for (auto& worker : workers_) worker.join();
    workers_.clear();
  }

  static constexpr int kSpins = 2000;  // some microseconds: the gap between two loops of one step

  // The state of the pool: workers in the loop, whether it is open, and the number of loops so far.
  static constexpr std::uint64_t kOpen = 1 << 16, kGeneration = 1 << 17;

  std::uint64_t generation() const { return state_.load(std::memory_order_acquire) / kGeneration; }
  bool all_left() const { return state_.load(std::memory_order_acquire) % kOpen == 0; }

  void work(int number) {
    std::uint64_t seen = 0;
    while (true) {
      for (int i = 0; i < kSpins && generation() == seen; ++i) relax();
      if (generation() == seen) {
        std::unique_lock lock(mutex_);
        start_.wait(lock, [&] { return generation() != seen; });
      }
      if (stopping_.load(std::memory_order_acquire)) return;
      if (!join(seen)) continue;
      take_tiles(number);
      if (state_.fetch_sub(1, std::memory_order_acq_rel) % kGeneration == 1) {  // closed, and no other is left
        std::scoped_lock lock(mutex_);
        done_.notify_one();
      }
    }
  }

  // Whether this worker gets into the newest loop: not where that is over by now, as a worker that slept may find it;
  // nobody waited for it then.
  bool join(std::uint64_t& seen) {
    std::uint64_t state = state_.load(std::memory_order_acquire);
    while (state & kOpen) {
      if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire)) continue;
      seen = state / kGeneration;
      return true;
    }
    seen = state / kGeneration;
    return false;
  }

  // Tiles that one thread begins with: from `next` on, in a cache line of its own.
  struct alignas(64) Stretch {
    std::atomic<std::int64_t> next{0};
    std::int64_t end = 0;
  };

  void share_out(std::int64_t tiles) {
    const auto threads = static_cast<std::int64_t>(stretches_.size());
    for (std::int64_t t = 0; t < threads; ++t) {
      Stretch& stretch = stretches_[static_cast<std::size_t>(t)];
      stretch.next.store(tiles * t / threads, std::memory_order_relaxed);
      stretch.end = tiles * (t + 1) / threads;
    }
  }

  // The tiles of this thread's stretch, then those that are left of the others'.
  void take_tiles(int number) {
    in_tile = true;
    try {
      const std::size_t threads = stretches_.size();
      for (std::size_t t = 0; t < threads; ++t)
        take_tiles(stretches_[(static_cast<std::size_t>(number) + t) % threads]);
    } catch (...) {
      for (Stretch& left : stretches_) left.next.store(left.end, std::memory_order_relaxed);  // is not needed any more
      std::scoped_lock lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
    in_tile = false;
  }

  void take_tiles(Stretch& from) {
    const auto next = [&] {
      return from.next.load(std::memory_order_relaxed) < from.end ? from.next.fetch_add(1, std::memory_order_relaxed)
                                                                  : from.end;
    };
    for (std::int64_t i; (i = next()) < from.end;) function_(context_, i * tile_, std::min(count_, (i + 1) * tile_));
  }

  void wait_for_workers() {
    for (int i = 0; i < kSpins && !all_left(); ++i) relax();
    if (all_left()) return;
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return all_left(); });
  }

  std::vector<Stretch> stretches_;
  std::vector<std::thread> workers_;
  std::mutex loop_mutex_, mutex_;
  std::condition_variable start_, done_;
  std::atomic<std::uint64_t> state_{0};
  std::exception_ptr error_;
  std::int64_t count_ = 0, tile_ = 1;
  detail::TileFunction function_ = nullptr;
  void* context_ = nullptr;
  std::atomic<bool> stopping_{false};
};

std::unique_ptr<ThreadPool> pool;
std::once_flag pool_is_made;

// All processors' threads, unless set_thread_count() came first.
ThreadPool& the_threads() {
  std::call_once(pool_is_made, [] { pool = std::make_unique<ThreadPool>(usable_processors()); });
  return *pool;
}

}  // namespace

bool inside_tile() { return in_tile; }

int thread_count() { return the_threads().size(); }

void set_thread_count(int threads) {
  check(threads >= 1, "threads: expected at least 1, got {}", threads);
  check(!in_tile, "threads: the number cannot change inside a parallel loop");
  std::call_once(pool_is_made, [threads] { pool = std::make_unique<ThreadPool>(threads); });
  if (threads != pool->size()) pool = std::make_unique<ThreadPool>(threads);
}

SerialScope::SerialScope() : before_(std::exchange(in_tile, true)) {}
SerialScope::~SerialScope() { in_tile = before_; }

void detail::run_tiles(std::int64_t count, std::int64_t tile, TileFunction function, void* context) {
  check(tile >= 1, "parallel_for: expected a tile of at least 1, got {}", tile);
  const bool alone = in_tile || tile_count(count, tile) <= 1 || thread_count() == 1;
  if (!alone) return the_threads().run(count, tile, function, context);
  for (std::int64_t begin = 0; begin < count; begin += tile) function(context, begin, std::min(count, begin + tile));
}

}  // namespace dattn
