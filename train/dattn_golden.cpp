// dattn_golden DIR: checks our results against every golden file (*.safetensors) of a folder. One line a file: its
// name, the largest error, the tensor that has it. Exit status 1 where an error exceeds 1e-9 or a file cannot be
// understood, 2 for wrong usage.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "core/output.h"
#include "train/golden.h"

namespace {

namespace fs = std::filesystem;

std::vector<fs::path> golden_files(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  }
  dattn::check(!error, "{}: cannot be listed ({})", folder.string(), error.message());
  dattn::check(!files.empty(), "{}: holds no .safetensors file", folder.string());
  std::sort(files.begin(), files.end());
  return files;
}

/// Prints the line of one file; whether it is within the bound.
bool report(const fs::path& file) {
  const std::string name = file.filename();
  try {
    const auto [error, tensor] = dattn::check_golden(dattn::read_state_file(file));
    const bool ok = error <= dattn::kGoldenBound;
    dattn::print_output("{:<36}  {:8.1e}  {}{}\n", name, error, tensor,
                        ok ? "" : fmt::format("  exceeds {:g}", dattn::kGoldenBound));
    return ok;
  } catch (const std::exception& error) {
    dattn::print_output("{:<36}  cannot be checked: {}\n", name, error.what());
    return false;
  }
}

}  // namespace

int main(int argc, char** argv) {
  return dattn::run_program("dattn_golden", [&] {
    const std::string usage = "usage: dattn_golden DIR\nchecks every .safetensors file in DIR against its operation\n";
    if (argc == 2 && (argv[1] == std::string("--help") || argv[1] == std::string("-h"))) {
      dattn::print_output("{}", usage);
      return 0;
    }
    if (argc != 2 || argv[1][0] == '-') {
      dattn::print_error(usage);
      return 2;
    }
    bool ok = true;
    for (const auto& file : golden_files(argv[1])) ok &= report(file);
    return ok ? 0 : 1;
  });
}
