// Modules in files: what save() writes load() reads, in PyTorch's order, and what does not fit is named and changes
// nothing.
#include "layers/state_dict.h"

#include <gtest/gtest.h>

#include "core/ops.h"
#include "error_text.h"
#include "layers/dattention.h"
#include "layers/linear.h"
#include "op_cases.h"
#include "program.h"

namespace dattn::test {
namespace {

DAttention attention(std::uint64_t seed) {
  Random random(seed, Purpose::init);
  return DAttention({.channel = 16, .q_h = 6, .q_w = 5, .n_heads = 4, .n_groups = 2}, random);
}

Linear linear_layer(std::int64_t in, bool bias, std::uint64_t seed) {
  Random random(seed, Purpose::init);
  return Linear(in, 3, bias, random);
}

TEST(StateDict, AModuleReadBackGivesTheSameBits) {
  const TemporaryFolder folder;
  DAttention first = attention(1), second = attention(2);
  const Tensor x = normal({2, 6, 5, 16}, 3).to(Dtype::float32);
  save(first, folder / "a", {{"note", "kept"}});
  EXPECT_EQ(read_state_file(folder / "a").metadata.at("note"), "kept");
  load(second, folder / "a");
  const Tensor expected = first(x), found = second(x);
  for (std::int64_t i = 0; i < expected.elements(); ++i) ASSERT_EQ(found.at(i), expected.at(i)) << i;
}

TEST(StateDict, FiltersAreInPyTorchsOrderInFiles) {
  const TemporaryFolder folder;
  DAttention module = attention(1);
  save(module, folder / "a");
  const TensorMap file = read_state_file(folder / "a").tensors;
  const Tensor& taps = module.conv_offset.conv.weight.value();  // [8,3,3,1]
  const Tensor& kept = file.at("conv_offset.0.weight");
  ASSERT_EQ(kept.shape(), (Shape{8, 1, 3, 3}));
  for (std::int64_t i = 0; i < taps.elements(); ++i) ASSERT_EQ(kept.at(i), taps.at(i));
  const Tensor& w = module.proj_q.weight.value();  // [16,1,1,16]
  ASSERT_EQ(file.at("proj_q.weight").shape(), (Shape{16, 16, 1, 1}));
  ASSERT_EQ(file.at("proj_q.weight").at(17), w.at(17));
}

TEST(StateDict, APrefixChoosesTheTensorsOfAFile) {
  const TemporaryFolder folder;
  Linear first = linear_layer(4, true, 1), second = linear_layer(4, true, 2);
  TensorMap file{{"optimizer.weight", Tensor::zeros({1})}, {"modal", Tensor::zeros({1})}};
  put_state(state_dict(first), "model.", file);
  write_state_file(folder / "a", file);
  load(second, folder / "a", "model.");
  EXPECT_EQ(second.weight.value().at(5), first.weight.value().at(5));
  EXPECT_EQ(second.bias.value().at(2), first.bias.value().at(2));
}

TEST(StateDict, WhatDoesNotFitIsNamedAndChangesNothing) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  Linear wide = linear_layer(5, false, 1), narrow = linear_layer(4, true, 2);
  TensorMap file{{"other", Tensor::zeros({2})}};
  put_state(state_dict(wide), "", file);
  write_state_file(path, file);
  const double before = narrow.weight.value().at(0);
  EXPECT_EQ(error_text([&] { load(narrow, path); }),
            path +
                ": its tensors are not the expected ones:\n"
                "  misshapen weight: expected [3,4] float32, found [3,5] float32\n"
                "  missing   bias [3]\n"
                "  extra     other [2]");
  EXPECT_EQ(narrow.weight.value().at(0), before);
}

TEST(StateDict, AnotherTypeDoesNotFit) {
  const TemporaryFolder folder;
  Linear first = linear_layer(4, false, 1), second = linear_layer(4, false, 2);
  convert(first, Dtype::float64);
  save(first, folder / "a");
  EXPECT_NE(error_text([&] { load(second, folder / "a"); }).find("expected [3,4] float32, found [3,4] float64"),
            std::string::npos);
}

}  // namespace
}  // namespace dattn::test
