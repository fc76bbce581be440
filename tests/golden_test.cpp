// Our results against the golden files of tests/data/golden, and what the checker says of files it cannot understand.
#include "train/golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <vector>

#include "error_text.h"
#include "program.h"

namespace dattn::test {
namespace {

namespace fs = std::filesystem;

const fs::path kFolder = DATTN_SOURCE_DIR "/tests/data/golden";

std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kFolder)) {
    if (entry.path().extension() == ".safetensors") names.push_back(entry.path().stem());
  }
  std::sort(names.begin(), names.end());
  return names;
}

StateFile golden(const std::string& name) { return read_state_file(kFolder / (name + ".safetensors")); }

std::string error_of(const StateFile& file) {
  return error_text([&] { check_golden(file); });
}

class Golden : public testing::TestWithParam<std::string> {};

TEST_P(Golden, WithinTheBound) {
  const GoldenResult result = check_golden(golden(GetParam()));
  EXPECT_LE(result.error, kGoldenBound) << result.tensor;
}

/// Every tensor that is compared is really compared: an element changed by 1e-6 of the scale shows.
TEST_P(Golden, SeesAChangeOfEveryTensor) {
  const StateFile file = golden(GetParam());
  if (file.tensors.contains("x") && file.tensors.at("x").elements() > 10'000)
    GTEST_SKIP() << "too long; others of its kind are looked at";
  for (const auto& [name, tensor] : file.tensors) {
    const bool compared = name == "y" || name == "pos" || name == "reference" || name.starts_with("grad.") ||
                          name.starts_with("buffer_after.") || name.find(".param.") != std::string::npos;
    if (!compared || tensor.dtype() != Dtype::float64) continue;
    StateFile changed = file;
    Tensor other = tensor.clone();
    double most = 0;
    for (std::int64_t i = 0; i < other.elements(); ++i) most = std::max(most, std::abs(other.at(i)));
    other.data<double>()[other.elements() / 2] += name == "grad.proj_k.bias" ? 1 : 1e-6 * most;
    changed.tensors[name] = other;
    EXPECT_GT(check_golden(changed).error, kGoldenBound) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Files, Golden, testing::ValuesIn(golden_names()), [](const auto& one) { return one.param; });

TEST(GoldenErrors, Options) {
  StateFile file = golden("gelu");
  file.metadata["op"] = "swish";
  EXPECT_EQ(
      error_of(file),
      "unknown op `swish` (known: adamw batchnorm2d conv2d cross_entropy dattention gelu layernorm maxpool2d sgd)");
  file.metadata.erase("op");
  EXPECT_EQ(error_of(file), "the metadata hold no `op`");
  file = golden("gelu");
  file.metadata["approximate"] = "sigmoid";
  EXPECT_EQ(error_of(file), "metadata `approximate`: expected none or tanh, found `sigmoid`");
  file = golden("maxpool");
  file.metadata["stride"] = "2x";
  EXPECT_EQ(error_of(file), "metadata `stride`: expected a whole number, found `2x`");
  file = golden("batchnorm_train");
  file.metadata["training"] = "yes";
  EXPECT_EQ(error_of(file), "metadata `training`: expected 0 or 1, found `yes`");
}

TEST(GoldenErrors, Tensors) {
  for (const char* name : {"x", "y", "grad_y", "grad.x", "param.weight", "grad.weight"}) {
    StateFile file = golden("layernorm");
    file.tensors.erase(name);
    EXPECT_EQ(error_of(file), fmt::format("there is no tensor `{}`", name));
  }
  StateFile file = golden("layernorm");
  file.tensors["extra"] = Tensor::zeros({1}, Dtype::float64);
  EXPECT_EQ(error_of(file), "tensor `extra` has no meaning here");
  file = golden("layernorm");
  file.tensors["y"] = Tensor::zeros({3, 4}, Dtype::float64);
  EXPECT_EQ(error_of(file), "tensor `y`: expected [3,4,9], found [3,4]");
  file = golden("layernorm");
  file.tensors["x"] = file.tensors["x"].to(Dtype::float32);
  EXPECT_EQ(error_of(file), "tensor `x`: expected float64, found float32");
  file = golden("optim_adamw");
  file.tensors.erase("step3.grad.w");
  EXPECT_EQ(error_of(file), "there is no tensor `step3.grad.w`");
}

TEST(GoldenErrors, WhatIsNotANumberIsFar) {
  StateFile file = golden("gelu");
  Tensor y = file.tensors["y"].clone();
  y.data<double>()[7] = std::numeric_limits<double>::quiet_NaN();
  file.tensors["y"] = y;
  EXPECT_EQ(check_golden(file).error, std::numeric_limits<double>::infinity());
}

// --- the program ---

TEST(DattnGolden, PrintsALineAFileAndGoesOnAfterABadOne) {
  TemporaryFolder folder;
  const StateFile good = golden("gelu");
  write_state_file(folder / "a_good.safetensors", good.tensors, good.metadata);
  std::ofstream(folder / "b_broken.safetensors") << "no such file";
  StateFile far = good;
  far.tensors["y"] = Tensor::zeros({3, 50}, Dtype::float64);
  write_state_file(folder / "c_far.safetensors", far.tensors, far.metadata);
  write_state_file(folder / "d_strange.safetensors", good.tensors, {{"op", "swish"}});
  write_state_file(folder / "e_good.safetensors", good.tensors, good.metadata);
  const ProgramResult result = run_program("dattn_golden", folder.path());
  EXPECT_EQ(result.status, 1);
  std::istringstream lines(result.output);
  std::string line;
  for (const char* pattern :
       {"a_good.safetensors +[0-9.e-]+ +grad.x",
        "b_broken.safetensors +cannot be checked: .*b_broken.safetensors: the header claims .*",
        "c_far.safetensors +inf +y +exceeds 1e-09", "d_strange.safetensors +cannot be checked: unknown op `swish`.*",
        "e_good.safetensors +[0-9.e-]+ +grad.x"}) {
    std::getline(lines, line);
    EXPECT_TRUE(std::regex_match(line, std::regex(pattern))) << line;
  }
  EXPECT_FALSE(std::getline(lines, line)) << line;
}

TEST(DattnGolden, ExitStatus) {
  TemporaryFolder folder;
  const StateFile good = golden("gelu");
  write_state_file(folder / "a.safetensors", good.tensors, good.metadata);
  EXPECT_EQ(run_program("dattn_golden", folder.path()).status, 0);
  EXPECT_EQ(run_program("dattn_golden", "").status, 2);
  EXPECT_EQ(run_program("dattn_golden", "a b").status, 2);
  EXPECT_EQ(run_program("dattn_golden", "--help").status, 0);
  EXPECT_EQ(run_program("dattn_golden", "--nosuch").status, 2);
  std::filesystem::remove(folder / "a.safetensors");
  const ProgramResult empty = run_program("dattn_golden", folder.path());
  EXPECT_EQ(empty.status, 1);
  EXPECT_EQ(empty.output, "dattn_golden: " + folder.path() + ": holds no .safetensors file\n");
  EXPECT_EQ(run_program("dattn_golden", folder / "none").status, 1);
}

}  // namespace
}  // namespace dattn::test
