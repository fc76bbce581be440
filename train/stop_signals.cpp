// Handlers of the signals that end a run.
#include "train/stop_signals.h"

#include <csignal>
#include <ctime>

namespace dattn {

namespace {

volatile std::sig_atomic_t signalled = 0;
timespec first_signal;  // when it came

constexpr int kStops[] = {SIGINT, SIGTERM, SIGHUP};
constexpr double kTogether = 1;  // seconds in which several signals are one wish: `timeout` sends two at once

// Of a pipe that nobody reads there may be many: one for each line.
void on_signal(int signal) {
  if (signal == SIGPIPE) std::signal(SIGPIPE, SIG_IGN);
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (!signalled) {
    first_signal = now;
    signalled = 1;
    return;
  }
  const double since = static_cast<double>(now.tv_sec - first_signal.tv_sec) +
                       1e-9 * static_cast<double>(now.tv_nsec - first_signal.tv_nsec);
  if (signal == SIGPIPE || since < kTogether) return;
  std::signal(signal, SIG_DFL);
  std::raise(signal);  // which ends the program once this handler is left
}

void heed(int signal) {
  if (std::signal(signal, on_signal) == SIG_IGN) std::signal(signal, SIG_IGN);
}

}  // namespace

void heed_stop_signals() {
  signalled = 0;
  for (const int stop : kStops) heed(stop);
  heed(SIGPIPE);
}

bool stop_asked() { return signalled != 0; }

}  // namespace dattn
