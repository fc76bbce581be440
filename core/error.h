// The one exception type, and the checks that throw it.
#pragma once

#include <fmt/format.h>

#include <stdexcept>

namespace dattn {

/// What a user can cause: a bad file, shape or option. `main` prints it and returns 1.
/// Text: `operation: expected, found (shapes)`, and where the fix is known a second line `hint: ...`.
class Error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

/// Throws Error with the formatted text unless `ok`; formats nothing otherwise.
template <typename... Args>
void check(bool ok, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok) [[unlikely]]
    fail(format, std::forward<Args>(args)...);
}

}  // namespace dattn
