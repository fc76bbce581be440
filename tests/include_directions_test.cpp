// Modules know only the modules that docs/design.md lets them know: reads the #include lines of the whole tree.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "source_files.h"

namespace dattn {
namespace {

using Modules = std::set<std::string>;

// The modules whose headers each module may include.
const std::map<std::string, Modules>& allowed_modules() {
  static const Modules library{"core", "layers", "optim", "datasets"};
  static const Modules library_and_cuda{"core", "layers", "optim", "datasets", "cuda"};
  const auto with = [](Modules modules, std::initializer_list<std::string> more) {
    modules.insert(more);
    return modules;
  };
  static const std::map<std::string, Modules> allowed{
      {"core", {"core"}},
      {"layers", {"core", "layers"}},
      {"optim", {"core", "optim"}},
      {"datasets", {"core", "datasets"}},
      {"cuda", library_and_cuda},
      {"train", with(library_and_cuda, {"train"})},
      {"examples", with(library_and_cuda, {"examples"})},
      {"bench", with(library_and_cuda, {"train", "bench"})},
      {"tests", with(library_and_cuda, {"train", "tests"})},
  };
  return allowed;
}

// `file:line: core must not include layers/conv2d.h` for every arrow the wrong way in a file of `module`.
std::vector<std::string> wrong_arrows(const std::string& module, const std::string& file, std::istream& text) {
  static const std::regex include(R"re(\s*#\s*include\s*["<](([a-z_]+)/[^">]+)[">].*)re");
  std::vector<std::string> wrong;
  std::string line;
  std::smatch match;
  for (int number = 1; std::getline(text, line); ++number) {
    if (!std::regex_match(line, match, include)) continue;
    const std::string to = match[2];
    if (allowed_modules().contains(to) && !allowed_modules().at(module).contains(to)) {
      wrong.push_back(file + ":" + std::to_string(number) + ": " + module + " must not include " + match[1].str());
    }
  }
  return wrong;
}

TEST(IncludeDirections, HoldInTheTree) {
  int files = 0;
  for (const auto& [module, allowed] : allowed_modules()) {
    for (const auto& file : test::source_files(module)) {
      std::ifstream text(file);
      for (const auto& message : wrong_arrows(module, file.string(), text)) ADD_FAILURE() << message;
      ++files;
    }
  }
  EXPECT_GT(files, 20) << "the source tree was not found in " << DATTN_SOURCE_DIR;
}

TEST(IncludeDirections, AnArrowTheWrongWayIsNamed) {
  const auto found = [](const char* module, const char* line) {
    std::istringstream text(std::string("#include <vector>\n") + line + "\n");
    return wrong_arrows(module, "file.h", text);
  };
  EXPECT_EQ(found("core", "#include \"layers/conv2d.h\""),
            std::vector<std::string>{"file.h:2: core must not include layers/conv2d.h"});
  EXPECT_EQ(found("optim", "#  include \"layers/module.h\"").size(), 1u);
  EXPECT_EQ(found("layers", "#include \"cuda/enable.h\"  // never").size(), 1u);
  EXPECT_EQ(found("examples", "#include \"tests/op_cases.h\"").size(), 1u);
  EXPECT_TRUE(found("train", "#include \"cuda/enable.h\"").empty());
  EXPECT_TRUE(found("layers", "#include \"hwy/foreach_target.h\"").empty());
  EXPECT_TRUE(found("core", "// #include \"layers/conv2d.h\" is not code").empty());
}

}  // namespace
}  // namespace dattn
