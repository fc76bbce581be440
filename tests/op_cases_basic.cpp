// Cases of core/ops.
#include "core/ops.h"
#include "op_cases.h"

namespace dattn::test {

namespace {

// A case of one or two inputs of the given shapes.
template <typename F>
OpCase unary(const char* name, const Shape& shape, F f, std::int64_t reduction = 1) {
  return {name,
          [=] {
            return OpInstance{{{"x", normal(shape, 1)}}, {}, [=](std::span<const Tensor> in) { return f(in[0]); }, {}};
          },
          reduction};
}

template <typename F>
OpCase binary(const char* name, const Shape& a, const Shape& b, F f, std::int64_t reduction = 1) {
  return {name,
          [=] {
            return OpInstance{{{"a", normal(a, 1)}, {"b", normal(b, 2)}},
                              {},
                              [=](std::span<const Tensor> in) { return f(in[0], in[1]); },
                              {}};
          },
          reduction};
}

OpCase product(const char* name, const Shape& a, const Shape& b, Trans ta, Trans tb, std::int64_t reduction) {
  return binary(
      name, a, b, [=](const Tensor& x, const Tensor& y) { return matmul(x, y, ta, tb); }, reduction);
}

}  // namespace

std::vector<OpCase> basic_cases() {
  constexpr Trans kNo = Trans::no, kYes = Trans::yes;
  return {
      binary("add", {3, 5, 7}, {3, 5, 7}, [](const Tensor& a, const Tensor& b) { return add(a, b); }),
      unary("add_fan_in", {5, 3}, [](const Tensor& x) { return add(x, add(x, x)); }),
      binary("mul", {3, 5, 7}, {3, 5, 7}, [](const Tensor& a, const Tensor& b) { return mul(a, b); }),
      unary("mul_itself", {5, 3}, [](const Tensor& x) { return mul(x, x); }),
      unary("scale", {3, 11}, [](const Tensor& x) { return scale(x, -1.7); }),
      product("matmul", {3, 5}, {5, 7}, kNo, kNo, 7),
      product("matmul_transposed_a", {5, 3}, {5, 7}, kYes, kNo, 7),
      product("matmul_transposed_b", {3, 5}, {7, 5}, kNo, kYes, 7),
      product("matmul_transposed_both", {5, 3}, {7, 5}, kYes, kYes, 7),
      product("matmul_batched", {2, 3, 3, 5}, {2, 3, 5, 2}, kNo, kNo, 5),
      product("matmul_batched_transposed", {3, 5, 3}, {3, 2, 5}, kYes, kYes, 5),
      product("matmul_many", {17, 2, 3}, {17, 5, 3}, kNo, kYes, 5),
      unary(
          "sum", {3, 5, 7}, [](const Tensor& x) { return sum(x); }, 105),
      unary(
          "sum_first", {9, 5}, [](const Tensor& x) { return sum(x, 0); }, 9),
      unary(
          "sum_middle", {3, 7, 5}, [](const Tensor& x) { return sum(x, 1); }, 7),
      unary(
          "sum_last", {3, 5, 19}, [](const Tensor& x) { return sum(x, -1); }, 19),
      unary(
          "mean", {3, 5, 7}, [](const Tensor& x) { return mean(x); }, 105),
      unary(
          "mean_first", {9, 5}, [](const Tensor& x) { return mean(x, 0); }, 9),
      unary(
          "mean_last", {3, 5, 19}, [](const Tensor& x) { return mean(x, 2); }, 19),
      unary("reshape", {2, 3, 5},
            [](const Tensor& x) {
              return reshape(x, {5, 6});
            }),
      unary("reshape_open", {2, 3, 5},
            [](const Tensor& x) {
              return reshape(x, {3, -1, 2});
            }),
      unary("permute_2d", {17, 35},
            [](const Tensor& x) {
              return permute(x, {1, 0});
            }),
      unary("permute_heads", {2, 5, 3, 4},
            [](const Tensor& x) {
              return permute(x, {0, 2, 1, 3});
            }),
      unary("permute_all", {2, 3, 4, 5, 2},
            [](const Tensor& x) {
              return permute(x, {4, 2, 0, 3, 1});
            }),
      unary("from_nchw", {2, 3, 5, 7}, [](const Tensor& x) { return from_nchw(x); }),
      unary("to_nchw", {2, 5, 7, 3}, [](const Tensor& x) { return to_nchw(x); }),
      binary("concat_first", {3, 5}, {2, 5},
             [](const Tensor& a, const Tensor& b) {
               return concat({a, b}, 0);
             }),
      binary("concat_last", {3, 2, 5}, {3, 2, 1},
             [](const Tensor& a, const Tensor& b) {
               return concat({a, b, a}, -1);
             }),
      unary("pad", {2, 3, 5},
            [](const Tensor& x) {
              return pad(x, {1, 0, 2}, {0, 2, 1});
            }),
      unary("pad2d", {2, 3, 5, 3}, [](const Tensor& x) { return pad2d(x, 2); }),
  };
}

}  // namespace dattn::test
