// An operator new that counts, over malloc.
#include "count_new.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace dattn::test {
static std::atomic<long> calls{0};
long new_calls() { return calls; }
}  // namespace dattn::test

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
void* operator new(std::size_t bytes) {
  ++dattn::test::calls;
  if (void* block = std::malloc(bytes ? bytes : 1)) return block;
  throw std::bad_alloc();
}
void operator delete(void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
#endif
