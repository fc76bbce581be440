// How long the seeded loops of tests are: whole, or short where sanitizers make every round slow.
#pragma once

#include <algorithm>
#include <cstdlib>

namespace dattn::test {

/// Whether the environment variable DATTN_SMALL asks for short tests.
inline bool small() { return std::getenv("DATTN_SMALL") != nullptr; }
/// `full` rounds, or a twentieth of them.
inline int rounds(int full) { return small() ? std::max(1, full / 20) : full; }

}  // namespace dattn::test
