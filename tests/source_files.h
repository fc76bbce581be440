// The source files of a module, for tests that read the tree.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

namespace dattn::test {

/// Headers and sources of C++ and CUDA under the folder `module` of the tree; none where there is no such folder.
inline std::vector<std::filesystem::path> source_files(const std::string& module) {
  static const std::set<std::string> code{".h", ".cpp", ".cu", ".cuh"};
  const std::filesystem::path folder = std::filesystem::path(DATTN_SOURCE_DIR) / module;
  std::vector<std::filesystem::path> files;
  if (!std::filesystem::exists(folder)) return files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (code.contains(entry.path().extension().string())) files.push_back(entry.path());
  }
  return files;
}

}  // namespace dattn::test
