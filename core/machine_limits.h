// What the machine, or the container that the process runs in, lets it use.
#pragma once

#include <cstddef>

namespace dattn {

/// Processors that the process may run on, fewer where a control group gives it less of their time; at least 1.
int usable_processors();

/// Bytes of memory and swap together, or the control group's limit of memory where that is less.
std::size_t usable_memory();

}  // namespace dattn
