// Every case of the table on the device: float32 and bfloat16 against the CPU's float64, again for the same bits, and
// accumulation.
// A case that needs an operation without a CUDA side is skipped, with the operation's name.
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>

#include "cuda/enable.h"
#include "op_compare.h"
#include "order.h"

namespace dattn::test {
namespace {

class CudaSuite : public testing::TestWithParam<OpCase> {
 protected:
  void SetUp() override { cuda::enable(); }
  void TearDown() override { run_in_order(0); }

  OpInstance on_device(Dtype dtype = Dtype::float32) const {
    OpInstance instance = GetParam().make();
    if (dtype == Dtype::bfloat16) {
      to_bfloat16(instance);
    } else {
      to_float32(instance);
    }
    move_to(instance, Device::cuda);
    return instance;
  }

  // Runs the case, or skips the test where an operation has no CUDA side yet.
  std::optional<OpResults> run_on_device(OpInstance& instance, bool keep = false) {
    try {
      return run(instance, keep);
    } catch (const Error& error) {
      const std::string text = error.what();
      if (text.find("no kernel for cuda") == std::string::npos) throw;
      skip(text.substr(0, text.find('\n')));
      return std::nullopt;
    }
  }

 private:
  static void skip(const std::string& why) { GTEST_SKIP() << why; }
};
class Float : public CudaSuite {};
class Bfloat16 : public CudaSuite {};
class Repeat : public CudaSuite {};
class Accumulate : public CudaSuite {};

TEST_P(Float, IsCloseToDouble) {
  OpInstance there = on_device(), here = GetParam().make();
  round_to_float32(here);
  const auto got = run_on_device(there);
  if (got) expect_close(GetParam(), *got, run(here), float_bound(GetParam().reduction));
}

TEST_P(Bfloat16, IsCloseToDouble) {
  OpInstance there = on_device(Dtype::bfloat16), here = GetParam().make();
  round_to_bfloat16(here);
  // Tensor cores take weights in bfloat16: both begin with such.
  for (OpInstance* instance : {&there, &here}) {
    for (auto& [name, p] : instance->parameters) {
      if (p.role() == Role::matrix) p.value().copy_from(p.value().to(Dtype::bfloat16));
    }
  }
  // They take gradients of scores in bfloat16 too: where those cancel by theory, their roundings are left.
  const double share = std::max(GetParam().share, 0.1);
  const auto got = run_on_device(there);
  if (got) expect_close(GetParam(), *got, run(here), bfloat16_bound(GetParam()), share);
}

TEST_P(Repeat, SameBitsAgainAndInAnotherOrder) {
  for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16}) {
    std::optional<OpResults> first;
    for (int i = 0; i < 3; ++i) {
      run_in_order(i);
      OpInstance instance = on_device(dtype);
      const auto now = run_on_device(instance);
      if (!now) return;
      if (!first) first = now;
      expect_same_bits(GetParam(), *now, *first, fmt::format("in {}, run {}", name(dtype), i));
    }
  }
}

TEST_P(Accumulate, ParametersAddAndActivationsDoNot) {
  OpInstance instance = on_device();
  const auto once = run_on_device(instance);
  if (!once) return;
  const auto twice = run_on_device(instance, true);
  expect_doubled_parameters(GetParam(), *twice, *once, float_bound(1));
}

std::string case_name(const testing::TestParamInfo<OpCase>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Cuda, Bfloat16, testing::ValuesIn(bfloat16_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Cuda, Float, testing::ValuesIn(op_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Cuda, Repeat, testing::ValuesIn(op_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Cuda, Accumulate, testing::ValuesIn(op_cases()), case_name);

}  // namespace
}  // namespace dattn::test
