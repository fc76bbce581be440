// Options that several programs have.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <charconv>
#include <string>
#include <vector>

#include "core/output.h"
#include "train/device.h"
#include "train/models.h"

namespace dattn {

/// A check that a value is one of these names.
template <std::size_t N>
CLI::IsMember one_of(const char* const (&names)[N]) {
  return CLI::IsMember(std::vector<std::string>(names, names + N));
}

/// For transform(): a whole number in decimal, between `least` and `most`. Zeros in front are dropped, as they would
/// make it octal.
inline CLI::Validator whole_number(std::int64_t least, std::int64_t most) {
  const auto check = [=](std::string& text) {
    const std::size_t zeros = std::min(text.find_first_not_of('0'), text.size() - !text.empty());
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data() + zeros, text.data() + text.size(), value);
    const bool whole = !text.empty() && std::isdigit(static_cast<unsigned char>(text[zeros])) && error == std::errc() &&
                       end == text.data() + text.size();
    if (!whole || value < least || value > most)
      return fmt::format("expected a whole number from {} to {}, got {}", least, most, text);
    text.erase(0, zeros);
    return std::string();
  };
  return CLI::Validator(check, fmt::format("[{} - {}]", least, most));
}

/// An option that is there or not. It may have a value in a file, or behind `=`, where CLI11 takes any number for one.
inline CLI::Option* add_flag(CLI::App& app, const std::string& name, bool& value, const std::string& description) {
  static const CLI::IsMember yes_or_no({"true", "false", "yes", "no", "on", "off", "1", "0"});
  return app.add_flag(name, value, description)->check([](const std::string& text) {
    return yes_or_no(text).empty() ? std::string() : "expected yes or no, got " + text;
  });
}

/// What a program returns after its command line was not one to run: 0 after --help, 2 for wrong usage.
inline int exit_after(const CLI::App& app, const CLI::ParseError& error) { return app.exit(error) == 0 ? 0 : 2; }

/// --device, as a name for use_device().
inline void add_device_option(CLI::App& app, std::string& device) {
  app.add_option("--device", device, "Where to compute; auto takes a GPU where one can be used")
      ->check(one_of(kDevices))
      ->capture_default_str();
}

/// --threads, where 0 stands for all processors.
inline void add_threads_option(CLI::App& app, int& threads) {
  app.add_option("--threads", threads, "Threads [all processors]; results do not depend on it")
      ->transform(whole_number(1, 1024));
}

}  // namespace dattn
