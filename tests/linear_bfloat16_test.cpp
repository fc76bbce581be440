// Linear layers by tile blocks of bfloat16 against products in double.
#include "layers/linear_bfloat16.h"

#include <gtest/gtest.h>

#include "instruction_sets.h"
#include "layers/linear.h"
#include "op_cases.h"
#include "op_compare.h"
#include "pick.h"
#include "small.h"
#include "tile_blocks.h"

namespace dattn::test {
namespace {

struct Sizes {
  std::int64_t rows, in, out;
};

// The weights are such that bfloat16 holds them, so that only sums and results are rounded.
void expect_products(const Sizes& s) {
  SCOPED_TRACE(fmt::format("{} rows of {} to {}", s.rows, s.in, s.out));
  const Tensor x = rounded({s.rows, s.in}, 1), dy = rounded({s.rows, s.out}, 2);
  const Tensor w = rounded({s.out, s.in}, 3).to(Dtype::float32), b = normal({s.out}, 4).to(Dtype::float32);
  const auto wide = [](const Tensor& t) { return t.to(Dtype::float64); };
  Tensor y = Tensor::like(dy), dx = Tensor::like(x), dw = Tensor::full(w.shape(), 2);
  Tensor y64 = wide(dy).clone(), dx64 = wide(x).clone(), dw64 = wide(dw);
  linear_forward(wide(x), wide(w), wide(b), y64);
  linear_backward_data(wide(dy), wide(w), dx64);
  linear_backward_weight(wide(dy), wide(x), dw64);
  const auto check = [&] {
    linear_bfloat16_forward(x, w, b, y);
    expect_near(y, y64, s.in, 1, "y");
    if (s.out % kTileDepth == 0) {
      linear_bfloat16_backward_data(dy, w, dx);
      expect_near(dx, dx64, s.out, 1, "dx");
    }
    dw.fill(2);
    linear_bfloat16_backward_weight(dy, x, dw);
    expect_near(dw, dw64, s.rows, 0, "dw");
  };
  on_every_tile_block([&] { on_every_instruction_set(check); });
}

TEST(LinearBfloat16, MatchProductsInDouble) {
  expect_products({65, 32, 32});
  expect_products({97, 64, 256});
  expect_products({130, 96, 17});
  expect_products({1, 32, 5});
  expect_products({301, 32, 64});
}

TEST(LinearBfloat16, RandomSizesMatchProductsInDouble) {
  Pick pick(1);
  for (int round = 0; round < rounds(20); ++round) {
    expect_products({pick.small(1, 400), 32 * pick.small(1, 5), pick.small(1, 200)});
  }
}

TEST(LinearBfloat16, DoNotDependOnThreads) {
  const Tensor x = rounded({2051, 32}, 1), w = rounded({33, 32}, 3).to(Dtype::float32), dy = rounded({2051, 33}, 2);
  on_every_tile_block([&] {
    expect_same_with_threads([&] {
      Tensor y = Tensor::like(dy), dw = Tensor::zeros(w.shape());
      linear_bfloat16_forward(x, w, Tensor(), y);
      linear_bfloat16_backward_weight(dy, x, dw);
      return std::vector{y, dw};
    });
  });
}

// The operation itself takes this way where there is work enough, and others where there is not.
TEST(LinearBfloat16, OperationsTakeThem) {
  const Tensor x = rounded({1100, 64}, 1), dy = rounded({1100, 96}, 2), w = rounded({96, 64}, 3).to(Dtype::float32);
  const UseTileBlock use(tile_block_reference);
  EXPECT_TRUE(linear_bfloat16_suits(x) && linear_weight_bfloat16_suits(dy, x));
  EXPECT_FALSE(linear_bfloat16_suits(x.to(Dtype::float32)));
  EXPECT_FALSE(linear_bfloat16_suits(rounded({1100, 48}, 1)));
  EXPECT_FALSE(linear_bfloat16_suits(rounded({10, 64}, 1)));
  EXPECT_FALSE(linear_weight_bfloat16_suits(dy.to(Dtype::float32), x));
  Tensor y = Tensor::like(dy), tiled = Tensor::like(dy), dw = Tensor::zeros(w.shape()),
         tiled_dw = Tensor::zeros(w.shape());
  linear_forward(x, w, Tensor(), y);
  linear_bfloat16_forward(x, w, Tensor(), tiled);
  EXPECT_TRUE(same_bits(y, tiled));
  linear_backward_weight(dy, x, dw);
  linear_bfloat16_backward_weight(dy, x, tiled_dw);
  EXPECT_TRUE(same_bits(dw, tiled_dw));
}

}  // namespace
}  // namespace dattn::test
