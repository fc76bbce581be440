// Basic operations: values against plain loops, every element type where elements only move, large sizes, and errors by
// text.
#include "core/ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "error_text.h"

namespace dattn {
namespace {

using test::error_text;

// 0, 1, 2, ... in the given shape.
Tensor counted(const Shape& shape, Dtype dtype = Dtype::float64) {
  Tensor x = Tensor::empty(shape, Dtype::float64);
  std::iota(x.data<double>(), x.data<double>() + x.elements(), 0.0);
  return x.to(dtype);
}

TEST(Ops, MatmulWithEveryTransposition) {
  constexpr std::int64_t kM = 3, kN = 4, kK = 5;
  for (const Trans ta : {Trans::no, Trans::yes}) {
    for (const Trans tb : {Trans::no, Trans::yes}) {
      const Tensor a = counted(ta == Trans::yes ? Shape{2, kK, kM} : Shape{2, kM, kK});
      const Tensor b = counted(tb == Trans::yes ? Shape{2, kN, kK} : Shape{2, kK, kN});
      const Tensor y = matmul(a, b, ta, tb);
      ASSERT_EQ(y.shape(), (Shape{2, kM, kN}));
      for (std::int64_t i = 0; i < y.elements(); ++i) {
        const std::int64_t s = i / (kM * kN), m = i / kN % kM, n = i % kN;
        double expected = 0;
        for (std::int64_t k = 0; k < kK; ++k) {
          expected += a.at(s * kM * kK + (ta == Trans::yes ? k * kM + m : m * kK + k)) *
                      b.at(s * kK * kN + (tb == Trans::yes ? n * kK + k : k * kN + n));
        }
        EXPECT_EQ(y.at(i), expected);
      }
    }
  }
}

TEST(Ops, SumsOfEveryDimension) {
  const Shape shape{3, 70, 2, 41};
  const Tensor x = counted(shape);
  for (int dim = 0; dim < 4; ++dim) {
    std::int64_t inner = 1;
    for (int i = dim + 1; i < 4; ++i) inner *= shape[i];
    const std::int64_t n = shape[dim];
    const Tensor y = sum(x, dim - 4), average = mean(x, dim);
    ASSERT_EQ(y.elements(), x.elements() / n);
    for (std::int64_t i = 0; i < y.elements(); ++i) {
      double expected = 0;
      for (std::int64_t k = 0; k < n; ++k) expected += x.at((i / inner * n + k) * inner + i % inner);
      EXPECT_EQ(y.at(i), expected);
      EXPECT_DOUBLE_EQ(average.at(i), expected / static_cast<double>(n));
    }
  }
  const double all = static_cast<double>(x.elements() * (x.elements() - 1) / 2);
  EXPECT_EQ(sum(x).item(), all);
  EXPECT_EQ(sum(x).rank(), 0);
}

TEST(Ops, SumsLongEnoughForManyParts) {
  const Tensor x = Tensor::full({300'000, 3}, 0.25);
  const Tensor columns = sum(x, 0), rows = sum(x, 1);
  for (std::int64_t c = 0; c < 3; ++c) EXPECT_EQ(columns.at(c), 75'000);
  EXPECT_EQ(rows.at(299'999), 0.75);
  EXPECT_EQ(mean(x).item(), 0.25);
  const Tensor wide = sum(Tensor::full({2, 3000, 17}, 0.5).view({2, 51'000}), 0);
  EXPECT_EQ(wide.at(0), 1);
  EXPECT_EQ(wide.at(50'999), 1);
}

TEST(Ops, PermuteOfEveryOrderAndType) {
  const Shape shape{2, 3, 1, 5};
  for (const Dtype dtype :
       {Dtype::float32, Dtype::float64, Dtype::bfloat16, Dtype::int64, Dtype::int32, Dtype::uint8}) {
    const Tensor x = counted(shape, dtype);
    int order[] = {0, 1, 2, 3};
    do {
      const Tensor y = permute(x, {order[0], order[1], order[2], order[3]});
      for (std::int64_t i = 0; i < y.elements(); ++i) {
        std::int64_t from[4] = {}, rest = i;
        for (int d = 3; d >= 0; --d) {
          from[order[d]] = rest % y.size(d);
          rest /= y.size(d);
        }
        EXPECT_EQ(y.at(i), x.at(((from[0] * 3 + from[1]) * 1 + from[2]) * 5 + from[3]));
      }
    } while (std::next_permutation(order, order + 4));
  }
}

TEST(Ops, ImagesChangeLayoutAndBack) {
  const Tensor x = counted({2, 3, 37, 18}, Dtype::uint8);  // [N,C,H,W]
  const Tensor y = from_nchw(x);
  EXPECT_EQ(y.shape(), (Shape{2, 37, 18, 3}));
  EXPECT_EQ(y.at((5 * 18 + 7) * 3 + 2), x.at((2 * 37 + 5) * 18 + 7));
  const Tensor back = to_nchw(y);
  EXPECT_EQ(back.shape(), x.shape());
  for (std::int64_t i = 0; i < x.elements(); ++i) EXPECT_EQ(back.at(i), x.at(i));
}

TEST(Ops, ConcatAndPadOfSmallTensors) {
  const Tensor y = concat({counted({2, 1}), counted({2, 2})}, 1);
  EXPECT_EQ(std::vector<double>(y.values<double>().begin(), y.values<double>().end()),
            (std::vector<double>{0, 0, 1, 1, 2, 3}));
  const Tensor p = pad(add(counted({2, 1}), Tensor::full({2, 1}, 1, Dtype::float64)), {1, 0}, {0, 2});
  EXPECT_EQ(p.shape(), (Shape{3, 3}));
  EXPECT_EQ(std::vector<double>(p.values<double>().begin(), p.values<double>().end()),
            (std::vector<double>{0, 0, 0, 1, 0, 0, 2, 0, 0}));
}

TEST(Ops, EmptyTensorsPass) {
  const Tensor none = Tensor::zeros({0, 3});
  EXPECT_EQ(add(none, none).elements(), 0);
  EXPECT_EQ(sum(none).item(), 0);
  EXPECT_EQ(sum(none, 0).at(2), 0);
  EXPECT_EQ(sum(none, 1).elements(), 0);
  EXPECT_EQ(permute(none, {1, 0}).shape(), (Shape{3, 0}));
  EXPECT_EQ(concat({none, counted({2, 3}, Dtype::float32)}, 0).at(5), 5);
  EXPECT_EQ(matmul(Tensor::zeros({2, 0}), none).at(5), 0);
}

TEST(Ops, ErrorsByText) {
  const Tensor x = Tensor::zeros({2, 3}), y = Tensor::zeros({3, 2});
  EXPECT_EQ(error_text([&] { mul(x, y); }),
            "mul: expected two tensors of one shape and type (a [2,3] float32, b [3,2] float32)");
  EXPECT_EQ(error_text([&] { matmul(x, x); }),
            "matmul: a has 3 columns, b has 2 rows (a [2,3] float32, b [2,3] float32)");
  EXPECT_EQ(error_text([&] { matmul(x, y, Trans::yes); }),
            "matmul: a transposed has 2 columns, b has 3 rows (a [2,3] float32, b [3,2] float32)");
  EXPECT_EQ(error_text([&] {
              matmul(Tensor::zeros({4, 2, 3}), Tensor::zeros({5, 3, 2}));
            }),
            "matmul: expected two tensors of one type with the same leading dimensions (a [4,2,3] float32, b [5,3,2] "
            "float32)");
  EXPECT_EQ(error_text([&] { sum(x, 2); }), "sum: there is no dimension 2 (x [2,3] float32)");
  EXPECT_EQ(error_text([&] { mean(Tensor::zeros({0, 3})); }), "mean: there are no elements (x [0,3] float32)");
  EXPECT_EQ(error_text([&] {
              mean(Tensor::zeros({0, 3}), 0);
            }),
            "mean: there are no elements along dimension 0 (x [0,3] float32)");
  EXPECT_EQ(error_text([&] { reshape(x, {4, -1}); }), "reshape: the 6 elements of [2,3] are no multiple of 4");
  EXPECT_EQ(error_text([&] { reshape(x, {-1, -1}); }), "reshape: one size may be -1, got more (x [2,3] float32)");
  EXPECT_EQ(error_text([&] {
              permute(x, {0, 1, 2});
            }),
            "permute: expected 2 dimensions, the order has 3 (x [2,3] float32, order [0,1,2])");
  EXPECT_EQ(error_text([&] {
              permute(x, {1, 1});
            }),
            "permute: the order must name every dimension once (x [2,3] float32, order [1,1])");
  EXPECT_EQ(error_text([&] {
              concat({x, y}, 0);
            }),
            "concat: tensors differ in more than dimension 0 (first [2,3] float32, another [3,2] float32)");
  EXPECT_EQ(error_text([&] { concat(std::span<const Tensor>(), 0); }), "concat: expected at least one tensor");
  EXPECT_EQ(error_text([&] {
              pad(x, {1}, {1, 1});
            }),
            "pad: expected 2 sizes before and after, got 1 and 2 (x [2,3] float32)");
  EXPECT_EQ(error_text([&] { pad2d(x, 1); }),
            "pad2d: expected images [N,H,W,C] and a border of at least 0, got x [2,3] float32 and 1");
  EXPECT_EQ(error_text([&] { to_nchw(x); }), "to_nchw: expected images [N,H,W,C], got x [2,3] float32");
  EXPECT_EQ(error_text([&] { scale(Tensor::zeros({2}, Dtype::int32), 2); }),
            "scale: expected float32 or float64, got int32");
}

}  // namespace
}  // namespace dattn
