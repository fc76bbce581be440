// What programs print, and how they end.
#pragma once

#include <fmt/format.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "core/error.h"

namespace dattn {

/// Prints to standard output. That it could not be written is said by flush_output() alone, so that no line of a run
/// ends it before it has saved.
template <typename... Args>
void print_output(fmt::format_string<Args...> format, Args&&... args) {
  const std::string text = fmt::format(format, std::forward<Args>(args)...);
  static_cast<void>(std::fwrite(text.data(), 1, text.size(), stdout));  // the stream remembers
}

/// Error where what was printed could not be written, such as on a full disk. For the end of a program's work.
inline void flush_output() {
  errno = 0;
  const bool ok = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  check(ok, "standard output cannot be written{}{}", errno ? ": " : "", errno ? std::strerror(errno) : "");
}

/// Prints to standard error, or does nothing where that cannot be written.
inline void print_error(const std::string& text) { static_cast<void>(std::fputs(text.c_str(), stderr)); }

/// The exit status of a program whose work is `body`: what that returns, or 1 after an Error, which is printed behind
/// the program's name. A limit on the size of files is an error of the write and no signal.
template <typename F>
int run_program(const char* name, F&& body) {
  std::signal(SIGXFSZ, SIG_IGN);
  try {
    const int status = body();
    flush_output();
    return status;
  } catch (const std::exception& error) {
    std::fflush(stdout);
    print_error(fmt::format("{}: {}\n", name, error.what()));
    return 1;
  }
}

}  // namespace dattn
