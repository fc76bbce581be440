// Progress bar and durations.
#include "train/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "core/output.h"

namespace dattn {

namespace {

double seconds_between(std::chrono::steady_clock::time_point a, std::chrono::steady_clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

int terminal_width() {
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string bar(double fraction, int width) {
  const int full = std::clamp(static_cast<int>(fraction * width), 0, width);
  return std::string(static_cast<std::size_t>(full), '#') + std::string(static_cast<std::size_t>(width - full), '.');
}

}  // namespace

Progress::Progress(std::int64_t epoch, std::int64_t epochs, std::int64_t done, std::int64_t total, bool at_once,
                   bool terminal)
    : epoch_(epoch),
      epochs_(epochs),
      first_(done),
      total_(total),
      at_once_(at_once),
      terminal_(terminal),
      start_(Clock::now()),
      last_(start_) {}

Progress::~Progress() {
  if (!drawn_) return;
  print_output("\r\033[K");
  std::fflush(stdout);
}

bool Progress::due(std::int64_t step) const {
  return (at_once_ && step == first_ + 1) ||
         seconds_between(last_, Clock::now()) >= (terminal_ ? kBarSeconds : kPlainSeconds);
}

void Progress::update(std::int64_t step, double loss, double accuracy, double images_per_second) {
  const auto now = Clock::now();
  last_ = now;
  const double left =
      seconds_between(start_, now) / static_cast<double>(step - first_) * static_cast<double>(total_ - step);
  const std::string numbers = fmt::format("step {}/{}  {:.0f} images/s  loss {:.4f}  accuracy {:5.2f} %  {} left", step,
                                          total_, images_per_second, loss, 100 * accuracy, duration(left));
  const std::string head = fmt::format("epoch {}/{} ", epoch_, epochs_);
  if (!terminal_) {
    print_output("{} {}\n", head, numbers);
    std::fflush(stdout);
    return;
  }
  const int room = terminal_width() - static_cast<int>(head.size() + numbers.size()) - 5;
  const double fraction = static_cast<double>(step) / static_cast<double>(total_);
  std::string line =
      room >= 5 ? fmt::format("{}[{}]  {}", head, bar(fraction, std::min(room, 30)), numbers) : head + numbers;
  line.resize(std::min(line.size(), static_cast<std::size_t>(terminal_width() - 1)));
  print_output("\r{}\033[K", line);
  std::fflush(stdout);
  drawn_ = true;
}

std::string duration(double seconds) {
  const auto s = static_cast<long long>(std::max(0.0, seconds) + 0.5);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

bool stdout_is_terminal() { return isatty(STDOUT_FILENO) != 0; }

}  // namespace dattn
