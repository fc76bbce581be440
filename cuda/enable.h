// The entry to the CUDA module: a call that fills the CUDA side of every kernel slot.
#pragma once

#include <optional>
#include <string>

namespace dattn::cuda {

/// Why this machine or this build has no usable device, with a hint, or nothing where it has one.
std::optional<std::string> why_unusable();

/// Takes the device and fills the slots; Error with the words of why_unusable() where there is none. Further calls do
/// nothing.
void enable();

/// Of the device that enable() took, such as "NVIDIA H200".
std::string device_name();

/// Waits until everything that was given to the device has run.
void synchronize();

}  // namespace dattn::cuda
