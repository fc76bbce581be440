// What an Error said: for tests of messages.
#pragma once

#include <string>

#include "core/error.h"

namespace dattn::test {

/// The text of the Error that f() throws; "no error" where it throws none.
template <typename F>
std::string error_text(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace dattn::test
