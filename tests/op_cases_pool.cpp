// Cases of pooling. Their numbers have no near ties, where a maximum has a kink; ties are tested in pool2d_test.cpp.
#include <algorithm>
#include <numeric>

#include "layers/pool2d.h"
#include "op_cases.h"

namespace dattn::test {

namespace {

// The multiples of 0.01 around zero, in the order of normal numbers.
Tensor distinct(const Shape& shape) {
  Tensor x = normal(shape, 1);
  std::vector<std::int64_t> order(static_cast<std::size_t>(x.elements()));
  std::iota(order.begin(), order.end(), 0);
  double* px = x.data<double>();
  std::sort(order.begin(), order.end(), [px](std::int64_t i, std::int64_t j) { return px[i] < px[j]; });
  for (std::size_t rank = 0; rank < order.size(); ++rank)
    px[order[rank]] = 0.01 * (static_cast<double>(rank) - 0.5 * static_cast<double>(order.size()));
  return x;
}

using Pool = Tensor (*)(const Tensor&, std::int64_t, std::optional<std::int64_t>, std::int64_t);

OpCase pool_case(const std::string& name, Pool pool, const Shape& shape, std::int64_t kernel, std::int64_t stride,
                 std::int64_t padding) {
  return {name,
          [=] {
            return OpInstance{{{"x", distinct(shape)}},
                              {},
                              [=](std::span<const Tensor> in) { return pool(in[0], kernel, stride, padding); },
                              {}};
          },
          kernel * kernel};
}

OpCase global_case(const std::string& name, const Shape& shape) {
  return {name,
          [=] {
            return OpInstance{
                {{"x", normal(shape, 1)}}, {}, [](std::span<const Tensor> in) { return global_avg_pool(in[0]); }, {}};
          },
          shape[1] * shape[2]};
}

}  // namespace

std::vector<OpCase> pool_cases() {
  return {
      pool_case("max_pool2d", max_pool2d, {2, 5, 7, 3}, 2, 2, 0),
      pool_case("max_pool2d_one_window", max_pool2d, {3, 3, 3, 17}, 3, 3, 0),
      pool_case("max_pool2d_overlap_padding", max_pool2d, {2, 6, 5, 3}, 3, 1, 1),
      pool_case("max_pool2d_stride2_padding", max_pool2d, {1, 7, 8, 9}, 3, 2, 1),
      pool_case("max_pool2d_gaps", max_pool2d, {1, 8, 7, 5}, 2, 3, 1),
      pool_case("max_pool2d_kernel1", max_pool2d, {1, 3, 4, 2}, 1, 1, 0),
      pool_case("max_pool2d_large_kernel", max_pool2d, {1, 19, 16, 2}, 17, 1, 3),
      pool_case("avg_pool2d", avg_pool2d, {2, 5, 7, 3}, 2, 2, 0),
      pool_case("avg_pool2d_overlap_padding", avg_pool2d, {2, 6, 5, 3}, 3, 1, 1),
      pool_case("avg_pool2d_stride2_padding", avg_pool2d, {1, 7, 8, 9}, 3, 2, 1),
      pool_case("avg_pool2d_gaps", avg_pool2d, {1, 8, 7, 5}, 2, 3, 1),
      global_case("global_avg_pool", {3, 5, 3, 7}),
      global_case("global_avg_pool_wide", {2, 1, 2, 67}),
  };
}

}  // namespace dattn::test
