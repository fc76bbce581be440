// Limits of the machine and of control groups (cgroup v2: files memory.max and cpu.max on the way to the process's
// own).
#include "core/machine_limits.h"

#include <sched.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

namespace dattn {

namespace {

// Calls f(file) for the file of that name of every control group that holds the process.
template <typename F>
void for_control_groups(const char* name, F&& f) {
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line) && !line.starts_with("0::")) {
  }
  if (!line.starts_with("0::/")) return;
  for (std::filesystem::path group = line.substr(4);; group = group.parent_path()) {
    std::ifstream file("/sys/fs/cgroup" / group / name);
    f(file);
    if (group.empty()) return;
  }
}

}  // namespace

int usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int processors = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof(set), &set) == 0) processors = CPU_COUNT(&set);
  for_control_groups("cpu.max", [&](std::istream& file) {
    double quota = 0, period = 0;  // microseconds; no number where there is no limit
    if (file >> quota >> period && quota > 0 && period > 0)
      processors = std::min(processors, static_cast<int>((quota + period - 1) / period));
  });
  return std::max(1, processors);
}

std::size_t usable_memory() {
  struct sysinfo info {};
  sysinfo(&info);
  std::size_t bytes = (static_cast<std::size_t>(info.totalram) + info.totalswap) * info.mem_unit;
  for_control_groups("memory.max", [&](std::istream& file) {
    std::size_t limit = 0;
    if (file >> limit) bytes = std::min(bytes, limit);
  });
  return bytes;
}

}  // namespace dattn
