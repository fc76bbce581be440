// Every case of the table through every suite: GradCheck, Float, Bfloat16, Repeat, Accumulate, Recompute
// (bounds: gradcheck.h, op_compare.h).
#include <gtest/gtest.h>

#include "core/parallel.h"
#include "core/saved.h"
#include "op_compare.h"

namespace dattn::test {
namespace {

class Suite : public testing::TestWithParam<OpCase> {};
class GradCheck : public Suite {};
class Float : public Suite {};
class Bfloat16 : public Suite {};
class Repeat : public Suite {};
class Accumulate : public Suite {};
class Recompute : public Suite {};

TEST_P(GradCheck, MatchesCentralDifferences) {
  const auto failure = gradcheck(GetParam());
  EXPECT_FALSE(failure) << *failure;
}

TEST_P(Float, IsCloseToDouble) {
  OpInstance single = GetParam().make(), twice = GetParam().make();
  to_float32(single);
  round_to_float32(twice);
  expect_close(GetParam(), run(single), run(twice), float_bound(GetParam().reduction));
}

TEST_P(Bfloat16, IsCloseToDouble) {
  OpInstance half = GetParam().make(), twice = GetParam().make();
  to_bfloat16(half);
  round_to_bfloat16(twice);
  expect_close(GetParam(), run(half), run(twice), bfloat16_bound(GetParam()), GetParam().share);
}

TEST_P(Repeat, SameBitsAgainAndWithOtherThreads) {
  const int threads = thread_count();
  OpResults first;
  for (int count : {1, 1, 2, 3}) {
    set_thread_count(count);
    OpInstance instance = GetParam().make();
    to_float32(instance);
    const OpResults now = run(instance);
    if (!first.y) first = now;
    expect_same_bits(GetParam(), now, first, fmt::format("with {} threads", count));
  }
  set_thread_count(threads);
}

TEST_P(Accumulate, ParametersAddAndActivationsDoNot) {
  OpInstance instance = GetParam().make();
  const OpResults once = run(instance), twice = run(instance, true);
  expect_doubled_parameters(GetParam(), twice, once, 1e-12);
}

// Whatever backward makes again in place of keeping it, it makes the same.
TEST_P(Recompute, SameBitsAsKept) {
  for (const auto convert : {to_float32, to_bfloat16}) {
    OpInstance kept = GetParam().make(), made = GetParam().make();
    convert(kept), convert(made);
    const OpResults expected = run(kept);
    const RecomputeAbove limit(0);
    expect_same_bits(GetParam(), run(made), expected, "recomputed");
  }
}

std::string case_name(const testing::TestParamInfo<OpCase>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Ops, GradCheck, testing::ValuesIn(op_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Ops, Float, testing::ValuesIn(op_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Ops, Bfloat16, testing::ValuesIn(bfloat16_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Ops, Repeat, testing::ValuesIn(op_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Ops, Accumulate, testing::ValuesIn(op_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Ops, Recompute, testing::ValuesIn(op_cases()), case_name);

}  // namespace
}  // namespace dattn::test
