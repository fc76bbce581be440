// Standard output that counts.
#pragma once

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/error.h"

namespace dattn {

/// Error where what was printed could not be written, such as on a full disk. For the end of a program's work.
inline void flush_output() {
  errno = 0;
  const bool ok = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  check(ok, "standard output cannot be written{}{}", errno ? ": " : "", errno ? std::strerror(errno) : "");
}

}  // namespace dattn
