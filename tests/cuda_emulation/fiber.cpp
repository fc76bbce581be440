// Fibers: a switch of a few instructions on x86-64, ucontext elsewhere; AddressSanitizer is told of every switch.
#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace dattn::emulation {

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kStackBytes = std::size_t{512} << 10;  // redzones make frames several times larger
#else
constexpr std::size_t kStackBytes = std::size_t{128} << 10;
#endif

Fiber* left = nullptr;  // whom the running fiber was switched to from

void tell_leaving([[maybe_unused]] Fiber& from, [[maybe_unused]] Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
#endif
}

void tell_arrived([[maybe_unused]] Fiber& here) {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(here.fake_stack, &bottom, &bytes);
  if (left && !left->stack) {  // the thread of the system, whose stack nobody knew until now
    left->stack = static_cast<std::byte*>(const_cast<void*>(bottom));
    left->stack_bytes = bytes;
  }
#endif
}

}  // namespace

extern "C" [[noreturn]] void dattn_fiber_begin(Fiber* fiber) {
  fiber->fake_stack = nullptr;
  tell_arrived(*fiber);
  for (;;) fiber->entry(*fiber);
}

#if defined(__x86_64__)

// Saves the registers that a called function must keep, swaps stack pointers, and returns on the other stack.
extern "C" void dattn_fiber_swap(void** from, void* to);
asm(R"(
.text
.globl dattn_fiber_swap
.type dattn_fiber_swap, @function
dattn_fiber_swap:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size dattn_fiber_swap, .-dattn_fiber_swap
.globl dattn_fiber_first
.type dattn_fiber_first, @function
dattn_fiber_first:
  movq %r12, %rdi
  xorl %ebp, %ebp
  call dattn_fiber_begin
  hlt
.size dattn_fiber_first, .-dattn_fiber_first
)");
extern "C" void dattn_fiber_first();

namespace {

void set_beginning(Fiber& fiber) {
  // What dattn_fiber_swap pops: r15, r14, r13, r12 (the fiber), rbx, rbp, and where it returns to.
  auto* top = reinterpret_cast<void**>(fiber.stack + fiber.stack_bytes) - 2;
  *--top = reinterpret_cast<void*>(&dattn_fiber_first);
  for (void* value : {static_cast<void*>(nullptr), static_cast<void*>(nullptr), static_cast<void*>(&fiber),
                      static_cast<void*>(nullptr), static_cast<void*>(nullptr), static_cast<void*>(nullptr)})
    *--top = value;
  fiber.place = top;
}

void swap_places(Fiber& from, Fiber& to) { dattn_fiber_swap(&from.place, to.place); }

}  // namespace

#else

namespace {

ucontext_t& context_of(Fiber& fiber) {
  if (!fiber.place) fiber.place = new ucontext_t;
  return *static_cast<ucontext_t*>(fiber.place);
}

// makecontext passes integers only.
void begin_from_halves(unsigned high, unsigned low) {
  dattn_fiber_begin(reinterpret_cast<Fiber*>(static_cast<std::uintptr_t>(high) << 32 | low));
}

void set_beginning(Fiber& fiber) {
  ucontext_t& context = context_of(fiber);
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack;
  context.uc_stack.ss_size = fiber.stack_bytes;
  const auto address = reinterpret_cast<std::uintptr_t>(&fiber);
  makecontext(&context, reinterpret_cast<void (*)()>(begin_from_halves), 2, static_cast<unsigned>(address >> 32),
              static_cast<unsigned>(address));
}

void swap_places(Fiber& from, Fiber& to) { swapcontext(&context_of(from), &context_of(to)); }

}  // namespace

#endif

Fiber* make_fiber(void (*entry)(Fiber&)) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0)
    throw std::runtime_error("cuda emulation: no memory for the stack of a thread");
  static auto* all = new std::vector<std::unique_ptr<Fiber>>;  // never freed: threads run until the program ends
  Fiber* fiber = all->emplace_back(std::make_unique<Fiber>()).get();
  fiber->stack = static_cast<std::byte*>(memory) + page;
  // Stacks a power of two apart would share few lines of the cache: each ends a little earlier than the one before.
  fiber->stack_bytes = kStackBytes - all->size() % 16 * 320;
  fiber->entry = entry;
  set_beginning(*fiber);
  return fiber;
}

void switch_fiber(Fiber& from, Fiber& to) {
  tell_leaving(from, to);
  left = &from;
  swap_places(from, to);
  tell_arrived(from);
}

void restart_fiber(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);
#endif
  set_beginning(fiber);
}

}  // namespace dattn::emulation
