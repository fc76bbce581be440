// Every case of the table through every suite: GradCheck, Float, Repeat, Accumulate (docs/design.md has the bounds).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/parallel.h"
#include "gradcheck.h"

namespace dattn::test {
namespace {

double largest(const Tensor& x) {
  double most = 0;
  for (std::int64_t i = 0; i < x.elements(); ++i) most = std::max(most, std::abs(x.at(i)));
  return most;
}

// The largest |a - b|; infinite where one is not a number.
double distance(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  double most = 0;
  for (std::int64_t i = 0; i < a.elements(); ++i) {
    const double d = std::abs(a.at(i) - b.at(i));
    most = std::isnan(d) ? INFINITY : std::max(most, d);
  }
  return most;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() && std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
}

class Suite : public testing::TestWithParam<OpCase> {};
class GradCheck : public Suite {};
class Float : public Suite {};
class Repeat : public Suite {};
class Accumulate : public Suite {};

TEST_P(GradCheck, MatchesCentralDifferences) {
  const auto failure = gradcheck(GetParam());
  EXPECT_FALSE(failure) << *failure;
}

TEST_P(Float, IsCloseToDouble) {
  OpInstance single = GetParam().make(), twice = GetParam().make();
  to_float32(single);
  round_to_float32(twice);
  const OpResults got = run(single), expected = run(twice);
  const double unit = (4 + 8 * std::sqrt(static_cast<double>(GetParam().reduction))) * 1.2e-7;
  EXPECT_LE(distance(got.y, expected.y), unit * largest(expected.y)) << GetParam().name << ": y";
  double largest_gradient = 0;
  for (const auto& [name, g] : expected.gradients) largest_gradient = std::max(largest_gradient, largest(g));
  for (std::size_t i = 0; i < expected.gradients.size(); ++i) {
    const auto& [name, g] = expected.gradients[i];
    const double scale = std::max(largest(g), 1e-3 * largest_gradient);
    EXPECT_LE(distance(got.gradients[i].tensor, g), unit * scale) << GetParam().name << ": d(" << name << ")";
  }
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
    EXPECT_TRUE(same_bits(now.y, first.y)) << GetParam().name << ": y with " << count << " threads";
    for (std::size_t i = 0; i < first.gradients.size(); ++i) {
      EXPECT_TRUE(same_bits(now.gradients[i].tensor, first.gradients[i].tensor))
          << GetParam().name << ": d(" << first.gradients[i].name << ") with " << count << " threads";
    }
  }
  set_thread_count(threads);
}

TEST_P(Accumulate, ParametersAddAndActivationsDoNot) {
  OpInstance instance = GetParam().make();
  const OpResults once = run(instance), twice = run(instance, true);
  for (std::size_t i = 0; i < once.gradients.size(); ++i) {
    const auto& [name, g] = once.gradients[i];
    const bool is_parameter = i >= once.gradients.size() - static_cast<std::size_t>(std::count_if(
                                                               instance.parameters.begin(), instance.parameters.end(),
                                                               [](const auto& p) { return p.parameter.trainable(); }));
    Tensor expected = g.clone();
    for (std::int64_t e = 0; e < g.elements(); ++e) expected.data<double>()[e] *= is_parameter ? 2 : 1;
    EXPECT_LE(distance(twice.gradients[i].tensor, expected), 1e-12 * largest(expected))
        << GetParam().name << ": d(" << name << ")";
  }
}

std::string case_name(const testing::TestParamInfo<OpCase>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Ops, GradCheck, testing::ValuesIn(op_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Ops, Float, testing::ValuesIn(op_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Ops, Repeat, testing::ValuesIn(op_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Ops, Accumulate, testing::ValuesIn(op_cases()), case_name);

}  // namespace
}  // namespace dattn::test
