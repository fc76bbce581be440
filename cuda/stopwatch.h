// Time on the device between two places of its stream.
#pragma once

#include <memory>

namespace dattn::cuda {

/// Measures by events of the device, so that neither the host's waits nor its clock are part of it.
class Stopwatch {
 public:
  Stopwatch();
  ~Stopwatch();
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  void start();
  /// Milliseconds that what was given to the device since start() took; waits for it.
  double stop();

 private:
  struct Events;
  std::unique_ptr<Events> events_;
};

}  // namespace dattn::cuda
