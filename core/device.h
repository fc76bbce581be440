// Where a tensor's memory lies.
#pragma once

namespace dattn {

enum class Device : unsigned char { cpu, cuda };

constexpr const char* name(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

}  // namespace dattn
