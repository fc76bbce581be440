// Distances between results, on the CPU.
#include "op_compare.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/parallel.h"

namespace dattn::test {

double largest(const Tensor& x) {
  double most = 0;
  for (std::int64_t i = 0; i < x.elements(); ++i) most = std::max(most, std::abs(x.at(i)));
  return most;
}

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

void expect_same_with_threads(const std::function<std::vector<Tensor>()>& f) {
  const int before = thread_count();
  std::vector<Tensor> first;
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    const std::vector<Tensor> now = f();
    if (first.empty()) first = now;
    for (std::size_t i = 0; i < first.size(); ++i)
      EXPECT_TRUE(same_bits(now[i], first[i])) << "result " << i << " with " << threads << " threads";
  }
  set_thread_count(before);
}

double float_bound(std::int64_t reduction) { return (4 + 8 * std::sqrt(static_cast<double>(reduction))) * 1.2e-7; }

double bfloat16_bound(const OpCase& op_case) {
  EXPECT_TRUE(op_case.roundings >= 1 && op_case.roundings <= 4) << op_case.name;
  return float_bound(op_case.reduction) + op_case.roundings * 0x1p-8;
}

std::vector<OpCase> bfloat16_cases() {
  auto cases = op_cases();
  std::erase_if(cases, [](const OpCase& op_case) { return op_case.roundings == kNotInBfloat16; });
  return cases;
}

void expect_close(const OpCase& op_case, const OpResults& got, const OpResults& expected, double bound, double share) {
  EXPECT_LE(distance(got.y, expected.y), bound * largest(expected.y)) << op_case.name << ": y";
  double largest_gradient = 0;
  for (const auto& [name, g] : expected.gradients) largest_gradient = std::max(largest_gradient, largest(g));
  for (std::size_t i = 0; i < expected.gradients.size(); ++i) {
    const auto& [name, g] = expected.gradients[i];
    const double scale = std::max(largest(g), share * largest_gradient);
    EXPECT_LE(distance(got.gradients[i].tensor, g), bound * scale) << op_case.name << ": d(" << name << ")";
  }
}

void expect_same_bits(const OpCase& op_case, const OpResults& got, const OpResults& expected, const std::string& what) {
  EXPECT_TRUE(same_bits(got.y, expected.y)) << op_case.name << ": y " << what;
  for (std::size_t i = 0; i < expected.gradients.size(); ++i) {
    EXPECT_TRUE(same_bits(got.gradients[i].tensor, expected.gradients[i].tensor))
        << op_case.name << ": d(" << expected.gradients[i].name << ") " << what;
  }
}

void expect_doubled_parameters(const OpCase& op_case, const OpResults& twice, const OpResults& once, double bound) {
  for (std::size_t i = 0; i < once.gradients.size(); ++i) {
    const auto& [name, g] = once.gradients[i];
    const Tensor expected = g.to(Dtype::float64).clone();
    for (std::int64_t e = 0; e < g.elements(); ++e) {
      Tensor(expected).data<double>()[e] *= i >= once.first_parameter ? 2 : 1;
    }
    EXPECT_LE(distance(twice.gradients[i].tensor, expected), bound * largest(expected))
        << op_case.name << ": d(" << name << ")";
  }
}

}  // namespace dattn::test
