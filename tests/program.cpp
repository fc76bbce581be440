// Child processes, temporary folders and small data for tests of the programs.
#include "program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "core/random.h"

namespace dattn::test {

namespace {

// Starts `/bin/sh -c command` with both outputs into files; exec, so that a signal reaches the program itself.
pid_t start(const std::string& command, const std::string& out, const std::string& err) {
  const pid_t child = fork();
  if (child != 0) return child;
  const int o = open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600),
            e = open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  dup2(o, STDOUT_FILENO);
  dup2(e, STDERR_FILENO);
  execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
  _exit(127);
}

ProgramResult finish(pid_t child, const std::string& out, const std::string& err) {
  int status = 0;
  waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_text(out) + read_text(err)};
}

std::string command_line(const std::string& name, const std::string& arguments) {
  return "exec " DATTN_EMULATOR " " + program_path(name) + " " + arguments;  // no emulator but in a cross-build
}

}  // namespace

std::string program_path(const std::string& name) { return DATTN_BIN_DIR "/" + name; }

ProgramResult run_program(const std::string& name, const std::string& arguments) {
  TemporaryFolder folder;
  return finish(start(command_line(name, arguments), folder / "out", folder / "err"), folder / "out", folder / "err");
}

ProgramResult run_and_signal(const std::string& name, const std::string& arguments, double seconds, int signal,
                             int times) {
  TemporaryFolder folder;
  const pid_t child = start(command_line(name, arguments), folder / "out", folder / "err");
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  for (int i = 0; i < times; ++i) kill(child, signal);
  return finish(child, folder / "out", folder / "err");
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "dattn-test-XXXXXX").string();
  if (!mkdtemp(name.data())) throw std::runtime_error("no temporary folder");
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

void write_small_cifar(const std::string& folder, int per_file) {
  std::filesystem::create_directories(folder);
  Random random(7, Purpose::test);
  for (const char* name :
       {"data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"}) {
    std::ofstream file(folder + "/" + name + ".bin", std::ios::binary);
    const bool test = std::strcmp(name, "test_batch") == 0;
    for (int i = 0; i < (test ? (per_file + 2) / 3 : per_file); ++i) {
      const int label = i % 10;
      file.put(static_cast<char>(label));
      for (int p = 0; p < 3072; ++p) file.put(static_cast<char>(20 * label + static_cast<int>(random.next_below(60))));
    }
  }
}

}  // namespace dattn::test
