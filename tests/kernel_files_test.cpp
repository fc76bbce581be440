// Kernel files share the namespace of an instruction set: two types of one name in different files would be one to the
// linker, which takes the first that it meets and says nothing.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

#include "source_files.h"

namespace dattn {
namespace {

// Names of the types that a kernel file defines for each instruction set; none where it is no kernel file.
std::set<std::string> types_in(std::istream& text) {
  static const std::regex type(R"re((?:class|struct|union|enum class|enum) (\w+).*\{.*)re");
  std::set<std::string> types;
  std::string line;
  std::smatch match;
  bool inside = false;
  while (std::getline(text, line)) {
    if (line.starts_with("HWY_BEFORE_NAMESPACE")) inside = true;
    if (line.starts_with("HWY_AFTER_NAMESPACE")) inside = false;
    if (inside && std::regex_match(line, match, type)) types.insert(match[1]);
  }
  return types;
}

TEST(KernelFiles, HaveNoTypesOfOneName) {
  std::map<std::string, std::string> files;  // by type
  for (const char* module : {"core", "layers", "optim"}) {
    for (const auto& file : test::source_files(module)) {
      const std::string name = file.filename().string();
      std::ifstream text(file);
      for (const std::string& type : types_in(text)) {
        const auto [place, is_new] = files.emplace(type, name);
        EXPECT_TRUE(is_new) << type << " is in " << place->second << " and in " << name;
      }
    }
  }
  EXPECT_GT(files.size(), 20u) << "the source tree was not found in " << DATTN_SOURCE_DIR;
}

}  // namespace
}  // namespace dattn
