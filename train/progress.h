// What a run shows: a progress bar on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace dattn {

/// Progress of one epoch. On a terminal a bar is redrawn in place at most ten times a second; elsewhere a line is
/// written every `kPlainSeconds`.
class Progress {
 public:
  /// `done` steps of the run's `total` are behind when it starts. `at_once`: the first step is shown, whatever the
  /// clock says.
  Progress(std::int64_t epoch, std::int64_t epochs, std::int64_t done, std::int64_t total, bool at_once, bool terminal);
  ~Progress();  ///< removes the bar, so that a line can be written
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Whether it is time to show something after this step.
  bool due(std::int64_t step) const;
  /// After a step, where it is due: mean loss and accuracy (0 to 1) of the epoch so far, images/s of training.
  void update(std::int64_t step, double loss, double accuracy, double images_per_second);

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr double kBarSeconds = 0.1, kPlainSeconds = 30;

  std::int64_t epoch_, epochs_, first_, total_;
  bool at_once_, terminal_, drawn_ = false;
  Clock::time_point start_, last_;
};

/// "1:02:03" or "2:03".
std::string duration(double seconds);

bool stdout_is_terminal();

}  // namespace dattn
