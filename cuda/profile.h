// What a profiler looks at: for those that wait until the program says so.
#pragma once

namespace dattn::cuda {

/// While one lives, what is given to the device is profiled (ncu --profile-from-start off, nsys -c cudaProfilerApi).
/// Begins when the work before it is done, and ends when its own is.
class Profiled {
 public:
  Profiled();
  ~Profiled();
  Profiled(const Profiled&) = delete;
  Profiled& operator=(const Profiled&) = delete;
};

}  // namespace dattn::cuda
