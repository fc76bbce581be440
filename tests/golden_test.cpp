// Our results against the golden files of tests/data/golden, and what the checker says of files it cannot understand.
#include "train/golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <vector>

namespace dattn {
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
  try {
    check_golden(file);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
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

}  // namespace
}  // namespace dattn
