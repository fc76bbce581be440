// The text of the Error that a call ends in.
#pragma once

#include <string>

#include "core/error.h"

namespace dattn::test {

/// "no error" where there is none.
template <typename F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace dattn::test
