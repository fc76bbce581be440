// Where a program computes: its option --device.
#pragma once

#include <string>

#include "core/device.h"

namespace dattn {

/// Devices that the programs know, by their names on the command line. `auto` is cuda where a device can be used, else
/// the CPU.
inline constexpr const char* kDevices[] = {"cpu", "cuda", "auto"};

/// The device of that name, opened. Error where `cuda` is asked for and cannot be used, in the words of
/// cuda::why_unusable().
Device use_device(const std::string& name);

/// What it is, such as "AMD EPYC, 2 threads" or "NVIDIA H200".
std::string describe(Device device);

}  // namespace dattn
