// Tensors: views, copies, conversions, types and shapes; bfloat16's rounding.
#include "core/tensor.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "error_text.h"

namespace dattn {
namespace {

using test::error_text;

Tensor counted(const Shape& shape) {
  Tensor x = Tensor::empty(shape);
  std::iota(x.data<float>(), x.data<float>() + x.elements(), 0.0f);
  return x;
}

TEST(Tensor, CopiesShareElementsAndClonesDoNot) {
  Tensor x = counted({2, 3});
  EXPECT_TRUE(x.unique());
  Tensor same = x;
  const Tensor clone = x.clone();
  same.data<float>()[4] = 40;
  EXPECT_EQ(x.at(4), 40);
  EXPECT_EQ(clone.at(4), 4);
  EXPECT_FALSE(x.unique());
  EXPECT_TRUE(clone.unique());
}

TEST(Tensor, ViewsAreAnOffsetAndAShape) {
  const Tensor x = counted({4, 2, 3});
  const Tensor rows = x.slice(1, 3);
  EXPECT_EQ(rows.shape(), (Shape{2, 2, 3}));
  EXPECT_EQ(rows.at(0), 6);
  EXPECT_EQ(rows.slice(1, 2).view({3, 2}).at(5), 17);
  EXPECT_EQ(x.slice(4, 4).elements(), 0);
  Tensor(rows).fill(-1);
  EXPECT_EQ(x.at(5), 5);
  EXPECT_EQ(x.at(6), -1);
  EXPECT_EQ(x.at(17), -1);
  EXPECT_EQ(x.at(18), 18);
}

TEST(Tensor, ViewsLeaveTheGraph) {
  Tensor x = counted({2, 3}).track();
  EXPECT_TRUE(x.needs_grad());
  EXPECT_FALSE(x.view({6}).needs_grad());
  EXPECT_FALSE(x.slice(0, 1).needs_grad());
  EXPECT_FALSE(x.detach().needs_grad());
  EXPECT_FALSE(x.grad().defined());
}

TEST(Tensor, ConvertsBetweenAllTypes) {
  const std::vector<double> values{0, 1, 3, 100, 255};
  const Tensor x = Tensor::from<double>({5}, values);
  const Dtype all[] = {Dtype::float32, Dtype::float64, Dtype::bfloat16, Dtype::int64, Dtype::int32, Dtype::uint8};
  for (const Dtype from : all) {
    for (const Dtype to : all) {
      const Tensor y = x.to(from).to(to);
      EXPECT_EQ(y.dtype(), to);
      for (std::int64_t i = 0; i < 5; ++i)
        EXPECT_EQ(y.at(i), values[static_cast<std::size_t>(i)]) << name(from) << name(to);
    }
  }
}

TEST(Tensor, ErrorsByText) {
  const Tensor x = counted({2, 3});
  EXPECT_EQ(error_text([&] { (void)x.data<double>(); }), "tensor [2,3]: elements are float32, asked for as float64");
  EXPECT_EQ(error_text([&] { (void)x.view({4}); }), "view: [2,3] has 6 elements, [4] would have 4");
  EXPECT_EQ(error_text([&] { (void)x.slice(1, 3); }), "slice: no rows [1, 3) in [2,3]");
  EXPECT_EQ(error_text([&] { (void)x.item(); }), "item: expected a tensor of one element, got [2,3]");
  EXPECT_EQ(error_text([&] { (void)x.at(6); }), "tensor [2,3]: no element 6");
  EXPECT_EQ(error_text([&] { Tensor::zeros({2}).copy_from(x); }), "copy: [2,3] cannot be copied into [2]");
  EXPECT_EQ(error_text([&] { Tensor::zeros({2}, Dtype::int64).track(); }),
            "track: gradients need a floating type, [2] is int64");
  EXPECT_EQ(error_text([&] { Tensor::from<float>({3}, std::vector<float>{1}); }),
            "tensor [3]: expected 3 values, got 1");
  EXPECT_EQ(fmt::format("{}", describe("x", x)), "x [2,3] float32");
  EXPECT_EQ(fmt::format("{}", describe("x", Tensor())), "x undefined");
}

TEST(Shape, SizesProductsAndErrors) {
  const Shape shape{2, 3, 5};
  EXPECT_EQ(shape[-1], 5);
  EXPECT_EQ(shape.elements(), 30);
  EXPECT_EQ(shape.rows(), 6);
  EXPECT_EQ(shape.leading(2), 6);
  EXPECT_EQ(shape.with(-2, 7), (Shape{2, 7, 5}));
  EXPECT_EQ(Shape().elements(), 1);
  EXPECT_EQ(Shape().rows(), 1);
  EXPECT_EQ(error_text([&] { (void)shape[3]; }), "shape [2,3,5]: no dimension 3");
  EXPECT_EQ(error_text([&] { Shape({1, 2, 3, 4, 5, 6, 7}); }), "shape: at most 6 dimensions, got 7");
  EXPECT_EQ(error_text([&] { Shape({2, -3}); }), "shape [2,-3]: sizes must not be negative");
  constexpr std::int64_t kBig = std::int64_t{1} << 40;
  EXPECT_EQ(error_text([&] {
              (void)Shape({kBig, kBig}).elements();
            }),
            "shape [1099511627776,1099511627776]: too many elements for 64 bits");
  EXPECT_EQ(error_text([&] {
              Tensor::empty({kBig, 1000});
            }),
            "tensor [1099511627776,1000]: too many elements for any machine");
}

TEST(Bfloat16, EveryValueSurvivesFloat) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    bfloat16 x;
    x.bits = static_cast<std::uint16_t>(bits);
    const auto value = static_cast<float>(x);
    const bfloat16 back(value);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(back))) << bits;
    } else {
      EXPECT_EQ(back.bits, x.bits);
    }
  }
}

TEST(Bfloat16, RoundsToNearestAndTiesToEven) {
  const auto bits = [](std::uint32_t pattern) { return bfloat16(std::bit_cast<float>(pattern)).bits; };
  EXPECT_EQ(bits(0x3f807fff), 0x3f80);  // just under half
  EXPECT_EQ(bits(0x3f808000), 0x3f80);  // half: to the even neighbour, below
  EXPECT_EQ(bits(0x3f808001), 0x3f81);  // just over half
  EXPECT_EQ(bits(0x3f818000), 0x3f82);  // half: to the even neighbour, above
  EXPECT_EQ(bits(0xbf818000), 0xbf82);
  EXPECT_EQ(bits(0x3fffffff), 0x4000);  // carries into the exponent
  EXPECT_EQ(bits(0x7f7fffff), 0x7f80);  // the largest float is nearest to infinity
  EXPECT_EQ(bits(0x7f800000), 0x7f80);
  EXPECT_EQ(bits(0x00000001), 0x0000);
  EXPECT_EQ(bits(0x80000000), 0x8000);
  EXPECT_TRUE(std::isnan(static_cast<float>(bfloat16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isnan(static_cast<float>(bfloat16(std::bit_cast<float>(0xffffffffu)))));
}

}  // namespace
}  // namespace dattn
