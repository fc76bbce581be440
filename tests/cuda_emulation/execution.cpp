// Blocks, threads, barriers and warps of the emulated device.
#include "execution.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <deque>
#include <exception>
#include <string_view>
#include <utility>
#include <vector>

#include "device_state.h"
#include "fiber.h"

namespace dattn::emulation {

Running running;

namespace {

struct Thread {
  enum class State : unsigned char { fresh, ready, at_barrier, in_warp, ended } state = State::fresh;
  Fiber* fiber = nullptr;
  Site site;          // where it waits
  unsigned mask = 0;  // with whom, in a warp
};

// An operation of the threads in `mask` of one warp. Values of one turn stay while the next one gathers.
struct WarpGroup {
  unsigned mask = 0, arrived = 0, turn = 0;
  WarpOperation operation = WarpOperation::sync;
  alignas(16) std::array<std::array<std::byte, kWarp * kExchangeBytes>, 2> values;
};

struct Warp {
  std::deque<WarpGroup> groups;
  std::uint32_t turn = 0;
};

// The block that runs.
struct Block {
  const char* kernel = "";
  Index3 index, threads, blocks;
  std::function<void()>* body = nullptr;
  std::vector<Index3> places;  // of all threads
  std::vector<Thread> all;
  std::vector<Warp> warps;
  std::deque<int> ready;
  int fresh = 0, ended = 0;  // threads not yet begun, threads at their end
  int at_barrier = 0;
  bool flag = false, any = false;  // of block_any: gathering, and of the last barrier
  std::exception_ptr failure;
};

Block block;
Fiber host;                   // the thread of the system
Fiber* here = &host;          // the fiber that runs
std::vector<Fiber*> resting;  // fibers without a thread
bool reversed = false;

int count() { return static_cast<int>(block.all.size()); }

Index3 index_of(int i) {
  const auto u = static_cast<unsigned>(i);
  const Index3& n = block.threads;
  return {u % n.x, u / n.x % n.y, u / (n.x * n.y)};
}

std::string text(const Index3& i) { return fmt::format("({},{},{})", i.x, i.y, i.z); }

std::string text(const Site& site) {
  const std::string_view file = site.file_name();
  return fmt::format("{}:{}", file.substr(file.find_last_of('/') + 1), site.line());
}

std::string place_text() { return fmt::format("kernel {}, block {}", block.kernel, text(block.index)); }

void become(int i) {
  running.index = i;
  running.thread = block.places[static_cast<std::size_t>(i)];
  running.warp_turn = &block.warps[static_cast<std::size_t>(i / kWarp)].turn;
}

void switch_to(Fiber& next) {
  Fiber& from = *std::exchange(here, &next);
  switch_fiber(from, next);
}

// The next thread that has not begun, or -1.
int take_fresh() {
  if (block.fresh == 0) return -1;
  const int taken = reversed ? block.fresh - 1 : count() - block.fresh;
  --block.fresh;
  return taken;
}

// Says which threads keep the others waiting; called where no thread can go on.
std::string deadlock_text() {
  const auto first = [](auto condition) {
    return static_cast<int>(std::find_if(block.all.begin(), block.all.end(), condition) - block.all.begin());
  };
  const auto waiting =
      first([](const Thread& t) { return t.state == Thread::State::at_barrier || t.state == Thread::State::in_warp; });
  const Thread& waits = block.all[static_cast<std::size_t>(waiting)];
  const bool in_warp = waits.state == Thread::State::in_warp;
  const auto missing = first([&](const Thread& t) {
    const auto i = static_cast<int>(&t - block.all.data());
    if (!in_warp) return t.state != Thread::State::at_barrier;
    return i / kWarp == waiting / kWarp && ((waits.mask >> (i % kWarp)) & 1u) != 0 &&
           (t.state != Thread::State::in_warp || t.mask != waits.mask);
  });
  const auto waits_text = [](const Thread& t) {
    return fmt::format("waits {} ({})", t.state == Thread::State::in_warp ? "for its warp" : "at a barrier",
                       text(t.site));
  };
  const std::string message = fmt::format("{}: thread {} {}", place_text(), text(index_of(waiting)), waits_text(waits));
  if (missing == count()) return message + " for threads that the block does not have";
  const Thread& other = block.all[static_cast<std::size_t>(missing)];
  return fmt::format("{}, but thread {} {}", message, text(index_of(missing)),
                     other.state == Thread::State::ended ? "has ended" : waits_text(other));
}

void run_threads(Fiber& fiber);

// Gives the turn to another thread, or to the host where there is none that could go on.
void leave() {
  if (!block.ready.empty()) {
    const int next = block.ready.front();
    block.ready.pop_front();
    become(next);
    switch_to(*block.all[static_cast<std::size_t>(next)].fiber);
  } else if (const int next = take_fresh(); next >= 0) {
    if (resting.empty()) {
      resting.push_back(make_fiber(run_threads));
    }
    Fiber* fiber = resting.back();
    resting.pop_back();
    fiber->thread = next;
    switch_to(*fiber);
  } else {
    if (block.ended < count() && !block.failure) block.failure = std::make_exception_ptr(Error(deadlock_text()));
    switch_to(host);
  }
}

// A fiber's turn: runs threads one after the other as long as no other is ready.
void run_threads(Fiber& fiber) {
  for (int t = fiber.thread; t >= 0; t = block.ready.empty() ? take_fresh() : -1) {
    Thread& thread = block.all[static_cast<std::size_t>(t)];
    thread.fiber = &fiber;
    become(t);
    try {
      (*block.body)();
    } catch (...) {
      block.failure = std::current_exception();
    }
    thread.state = Thread::State::ended;
    thread.fiber = nullptr;
    ++block.ended;
    if (block.failure) break;
  }
  resting.push_back(&fiber);
  if (block.failure) {
    switch_to(host);
  } else {
    leave();
  }
}

// Stacks of threads that a failure has left in the middle.
void abandon_threads() {
  for (Thread& thread : block.all) {
    if (!thread.fiber) continue;
    restart_fiber(*thread.fiber);
    resting.push_back(thread.fiber);
  }
}

void run_block(const Index3& index) {
  block.index = running.block = index;
  block.all.assign(block.all.size(), Thread{});
  for (Warp& warp : block.warps) warp.groups.clear(), warp.turn = 0;
  block.ready.clear();
  block.fresh = count();
  block.ended = block.at_barrier = 0;
  block.flag = block.any = false;
  block.failure = nullptr;
  running.first_epoch = ++running.epoch;
  begin_block_memory();
  leave();
  if (!block.failure) return;
  abandon_threads();
  std::rethrow_exception(std::exchange(block.failure, nullptr));
}

void make_ready(int i) {
  block.all[static_cast<std::size_t>(i)].state = Thread::State::ready;
  block.ready.push_back(i);
}

// All threads but the calling one go on.
void open_barrier() {
  for (int i = 0; i < count(); ++i) {
    const int next = reversed ? count() - 1 - i : i;
    if (next != running.index) make_ready(next);
  }
  block.at_barrier = 0;
  block.any = std::exchange(block.flag, false);
  ++running.epoch;
}

WarpGroup& group_of(Warp& warp, unsigned mask) {
  const auto found =
      std::find_if(warp.groups.begin(), warp.groups.end(), [&](const WarpGroup& g) { return g.mask == mask; });
  if (found != warp.groups.end()) return *found;
  WarpGroup& group = warp.groups.emplace_back();
  group.mask = mask;
  return group;
}

}  // namespace

void set_reversed(bool on) { reversed = on; }

void end_kernel(const std::string& what) {
  throw Error(running.in_kernel ? fmt::format("{}, thread {}: {}", place_text(), text(running.thread), what)
                                : fmt::format("cuda emulation: {} (outside of a kernel)", what));
}

void run_kernel(const char* kernel, Index3 blocks, Index3 threads, std::function<void()>& body) {
  block.kernel = kernel;
  block.threads = running.threads = threads;
  block.blocks = running.blocks = blocks;
  block.body = &body;
  block.all.resize(std::size_t{threads.x} * threads.y * threads.z);
  block.warps.resize((block.all.size() + kWarp - 1) / kWarp);
  block.places.resize(block.all.size());
  for (int i = 0; i < count(); ++i) block.places[static_cast<std::size_t>(i)] = index_of(i);
  running.in_kernel = true;
  struct Leave {
    ~Leave() { running.in_kernel = false; }
  } leave_kernel;
  const std::uint64_t all = std::uint64_t{blocks.x} * blocks.y * blocks.z;
  for (std::uint64_t i = 0; i < all; ++i) {
    const std::uint64_t b = reversed ? all - 1 - i : i;
    run_block({static_cast<unsigned>(b % blocks.x), static_cast<unsigned>(b / blocks.x % blocks.y),
               static_cast<unsigned>(b / blocks.x / blocks.y)});
  }
}

void block_barrier(const Site& site) {
  Thread& thread = block.all[static_cast<std::size_t>(running.index)];
  const auto other = std::find_if(block.all.begin(), block.all.end(),
                                  [](const Thread& t) { return t.state == Thread::State::at_barrier; });
  if (other != block.all.end() &&
      (other->site.line() != site.line() || std::strcmp(other->site.file_name(), site.file_name()) != 0)) {
    fail_here("waits at a barrier ({}), while thread {} waits at another ({})", text(site),
              text(index_of(static_cast<int>(other - block.all.begin()))), text(other->site));
  }
  if (++block.at_barrier == count()) return open_barrier();
  thread.state = Thread::State::at_barrier;
  thread.site = site;
  leave();
}

bool block_any(bool flag, const Site& site) {
  block.flag = block.flag || flag;
  block_barrier(site);
  return block.any;
}

const std::byte* warp_exchange(WarpOperation operation, unsigned mask, const void* value, std::size_t bytes,
                               const Site& site) {
  const int self = running.index, lane = self % kWarp;
  if (((mask >> lane) & 1u) == 0)
    fail_here("is missing from the mask of its own operation of the warp ({})", text(site));
  Warp& warp = block.warps[static_cast<std::size_t>(self / kWarp)];
  WarpGroup& group = group_of(warp, mask);
  if (group.arrived == 0) {
    group.operation = operation;
  } else if (group.operation != operation) {
    fail_here("does another operation of the warp than the threads that wait for it ({})", text(site));
  }
  auto& values = group.values[group.turn % 2];
  if (bytes > 0) std::memcpy(values.data() + static_cast<std::size_t>(lane) * kExchangeBytes, value, bytes);
  group.arrived |= 1u << lane;
  if (group.arrived != mask) {
    Thread& thread = block.all[static_cast<std::size_t>(self)];
    thread.state = Thread::State::in_warp;
    thread.site = site;
    thread.mask = mask;
    leave();
    return values.data();
  }
  for (int i = 0; i < kWarp; ++i) {
    if (i != lane && ((mask >> i) & 1u) != 0) make_ready(self - lane + i);
  }
  group.arrived = 0;
  ++group.turn;
  if (operation == WarpOperation::sync && mask == kFullMask) ++warp.turn;
  return values.data();
}

}  // namespace dattn::emulation
