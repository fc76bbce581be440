// Choice of the device.
#include "train/device.h"

#include "core/error.h"
#include "core/parallel.h"
#include "cuda/enable.h"
#include "train/platform.h"

namespace dattn {

Device use_device(const std::string& name) {
  if (name == "cpu") return Device::cpu;
  check(name == "cuda" || name == "auto", "device: expected cpu, cuda or auto, got {}", name);
  if (name == "auto" && cuda::why_unusable()) return Device::cpu;
  cuda::enable();
  return Device::cuda;
}

std::string describe(Device device) {
  return device == Device::cpu ? fmt::format("{}, {} threads", processor_name(), thread_count()) : cuda::device_name();
}

}  // namespace dattn
