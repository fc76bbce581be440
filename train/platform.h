// What a run is made with and on, for its records.
#pragma once

#include <string>

namespace dattn {

/// The processor's name, such as "AMD EPYC".
std::string processor_name();
/// Compiler and its version.
std::string compiler_name();
/// Version of dattn.
std::string version();

}  // namespace dattn
