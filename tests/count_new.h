// Counts calls of operator new in the whole test program.
#pragma once

namespace dattn::test {

/// Sanitizers bring an operator new of their own, which is not counted.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kCountsNew = false;
#else
inline constexpr bool kCountsNew = true;
#endif

/// Calls of operator new by any thread so far.
long new_calls();

}  // namespace dattn::test
