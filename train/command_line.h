// Options that several programs have.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "train/device.h"
#include "train/models.h"

namespace dattn {

/// A check that a value is one of these names.
template <std::size_t N>
CLI::IsMember one_of(const char* const (&names)[N]) {
  return CLI::IsMember(std::vector<std::string>(names, names + N));
}

/// --device, as a name for use_device().
inline void add_device_option(CLI::App& app, std::string& device) {
  app.add_option("--device", device, "Where to compute; auto takes a GPU where one can be used")
      ->check(one_of(kDevices))
      ->capture_default_str();
}

/// --threads, where 0 stands for all processors.
inline void add_threads_option(CLI::App& app, int& threads) {
  app.add_option("--threads", threads, "Threads [all processors]; results do not depend on it")
      ->check(CLI::Range(1, 1024));
}

}  // namespace dattn
