// How long the seeded loops of tests are: whole, or short where sanitizers make every round slow.
#pragma once

#include <algorithm>
#include <cstdlib>

namespace dattn::test {

/// `full` rounds, a twentieth of them where the environment variable DATTN_SMALL is set.
inline int rounds(int full) { return std::getenv("DATTN_SMALL") ? std::max(1, full / 20) : full; }

}  // namespace dattn::test
