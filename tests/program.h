// Runs the project's programs as a user does: by a command line, with its output and exit status.
#pragma once

#include <string>

namespace dattn::test {

struct ProgramResult {
  int status = 0;      ///< exit status; 128 + signal where a signal ended it
  std::string output;  ///< standard output, then standard error
};

/// Path of a program of this build, which may have been left out of it.
std::string program_path(const std::string& name);

/// Runs `NAME ARGUMENTS` from build/*/bin through the shell and waits.
ProgramResult run_program(const std::string& name, const std::string& arguments);

/// Runs it, sends `signal` after `seconds`, so many times at once, and waits.
ProgramResult run_and_signal(const std::string& name, const std::string& arguments, double seconds, int signal,
                             int times = 1);

/// A fresh empty folder that vanishes with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string read_text(const std::string& path);

/// Writes a CIFAR-10 binary folder of random images whose class shows in their brightness: `per_file` images in each of
/// the five training files, a third as many in the test file.
void write_small_cifar(const std::string& folder, int per_file);

}  // namespace dattn::test
