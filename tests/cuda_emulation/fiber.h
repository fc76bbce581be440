// Fibers: threads of a block that take turns on one thread of the system, each on a stack of its own.
#pragma once

#include <cstddef>

namespace dattn::emulation {

/// A stack and the place where what runs on it was left. A fiber runs `entry` in an endless loop: it is left by
/// switching to another one, and begins the next turn when it is switched to again after `entry` has returned.
struct Fiber {
  void* place = nullptr;  ///< the saved stack pointer (or context)
  std::byte* stack = nullptr;
  std::size_t stack_bytes = 0;
  void* fake_stack = nullptr;  ///< AddressSanitizer's
  void (*entry)(Fiber&) = nullptr;
  int thread = -1;  ///< for the scheduler: the thread of the block that runs on it
};

/// A new fiber with a guard page under its stack; lives until the program ends.
Fiber* make_fiber(void (*entry)(Fiber&));

/// Leaves `from`, which is the one running, and goes on where `to` was left.
void switch_fiber(Fiber& from, Fiber& to);

/// To be called before a fiber that was left in the middle of its entry is used from the beginning again.
void restart_fiber(Fiber& fiber);

}  // namespace dattn::emulation
