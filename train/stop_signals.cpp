// Handlers of the signals that end a run.
#include "train/stop_signals.h"

#include <csignal>

namespace dattn {

namespace {

volatile std::sig_atomic_t signalled = 0;

constexpr int kStops[] = {SIGINT, SIGTERM, SIGHUP};

// Of a pipe that nobody reads there may be many: one for each line.
void on_signal(int signal) {
  signalled = 1;
  for (const int stop : kStops) std::signal(stop, SIG_DFL);
  if (signal == SIGPIPE) std::signal(SIGPIPE, SIG_IGN);
}

void heed(int signal) {
  if (std::signal(signal, on_signal) == SIG_IGN) std::signal(signal, SIG_IGN);
}

}  // namespace

void heed_stop_signals() {
  signalled = 0;
  for (const int stop : kStops) heed(stop);
  heed(SIGPIPE);
  std::signal(SIGXFSZ, SIG_IGN);
}

bool stop_asked() { return signalled != 0; }

}  // namespace dattn
