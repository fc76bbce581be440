// Limits of the machine and of control groups: of version 2 the files memory.max and cpu.max on the way to the
// process's own group, of version 1 those of the group that is mounted, which in a container is its own.
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

// The number in a file of version 1; 0 where there is none.
double number_in(const char* file) {
  double value = 0;
  std::ifstream(std::filesystem::path("/sys/fs/cgroup") / file) >> value;
  return value;
}

// Processors that a quota of so much time in a period is worth; `most` where there is no limit.
int processors_of(double quota, double period, int most) {
  return quota > 0 && period > 0 ? std::min(most, static_cast<int>((quota + period - 1) / period)) : most;
}

}  // namespace

int usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int processors = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof(set), &set) == 0) processors = CPU_COUNT(&set);
  for_control_groups("cpu.max", [&](std::istream& file) {
    double quota = 0, period = 0;  // microseconds; no number where there is no limit
    if (file >> quota >> period) processors = processors_of(quota, period, processors);
  });
  processors = processors_of(number_in("cpu/cpu.cfs_quota_us"), number_in("cpu/cpu.cfs_period_us"), processors);
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
  const double limit = number_in("memory/memory.limit_in_bytes");
  if (limit > 0 && limit < static_cast<double>(bytes)) bytes = static_cast<std::size_t>(limit);
  return bytes;
}

}  // namespace dattn
