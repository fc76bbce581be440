// Convolution by tiles of bfloat16, with the tile instructions in plain code, against the direct sums in double; and
// the instructions themselves, where the processor has them.
#include "layers/conv2d_bfloat16.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/tile_block.h"
#include "layers/conv2d_max_pool.h"
#include "layers/pool2d.h"
#include "op_cases.h"
#include "op_compare.h"

namespace dattn::test {
namespace {

struct Sizes {
  std::int64_t N, H, W, C, O;
};

class Tiles : public testing::Test {
 protected:
  Tiles() { use_tile_block(tile_block_reference); }
  ~Tiles() override { use_tile_block(nullptr); }
};

Tensor rounded(const Shape& shape, std::uint32_t lane) { return normal(shape, lane).to(Dtype::bfloat16); }

// Filters that bfloat16 holds, so that only sums and results are rounded.
Tensor filters(const Sizes& s) { return rounded({s.O, 3, 3, s.C}, 2).to(Dtype::float32); }

void expect_near(const Tensor& found, const Tensor& right, std::int64_t terms, double roundings, const char* what) {
  EXPECT_LE(distance(found, right), (float_bound(terms) + roundings * 0x1p-8) * largest(right)) << what;
}

constexpr Conv2dOptions kOptions{.padding = 1};

void expect_direct(const Sizes& s) {
  SCOPED_TRACE(fmt::format("{} images of {} x {} x {} to {}", s.N, s.H, s.W, s.C, s.O));
  const Tensor x = rounded({s.N, s.H, s.W, s.C}, 1), dy = rounded({s.N, s.H, s.W, s.O}, 3), w = filters(s),
               b = normal({s.O}, 4).to(Dtype::float32);
  const auto wide = [](const Tensor& t) { return t.to(Dtype::float64); };
  ASSERT_TRUE(conv2d_bfloat16_suits(x, w, kOptions));
  Tensor y = Tensor::like(dy), dx = Tensor::like(x), dw = Tensor::full(w.shape(), 2);
  Tensor y64 = wide(dy).clone(), dx64 = wide(x).clone(), dw64 = wide(dw);
  conv2d_bfloat16_forward(x, w, b, y);
  conv2d_forward(wide(x), wide(w), wide(b), kOptions, y64);
  expect_near(y, y64, 9 * s.C, 1, "y");
  conv2d_bfloat16_backward_data(dy, w, dx);
  conv2d_backward_data(wide(dy), wide(w), kOptions, dx64);
  expect_near(dx, dx64, 9 * s.O, 1, "dx");
  conv2d_bfloat16_backward_filter(dy, x, dw);
  conv2d_backward_filter(wide(dy), wide(x), kOptions, dw64);
  expect_near(dw, dw64, s.N * s.H * s.W, 0, "dw");
}

TEST_F(Tiles, MatchDirectSumsInDouble) {
  expect_direct({2, 5, 7, 16, 16});
  expect_direct({3, 7, 7, 33, 40});
  expect_direct({1, 31, 30, 24, 17});
  expect_direct({9, 3, 3, 20, 65});
  expect_direct({1, 1, 1, 16, 32});
  expect_direct({2, 2, 65, 16, 16});
}

void expect_pooled(const Sizes& s) {
  SCOPED_TRACE(fmt::format("{} images of {} x {} x {} to {}, pooled", s.N, s.H, s.W, s.C, s.O));
  const Tensor x = rounded({s.N, s.H, s.W, s.C}, 1), dy = rounded({s.N, s.H / 2, s.W / 2, s.O}, 3), w = filters(s),
               b = normal({s.O}, 4).to(Dtype::float32);
  Tensor y = Tensor::like(dy), taps = Tensor::empty(dy.shape(), Dtype::uint8), dx = Tensor::like(x),
         dw = Tensor::zeros(w.shape());
  conv2d_bfloat16_pool_forward(x, w, b, y, taps);
  conv2d_bfloat16_pool_backward_data(dy, taps, w, dx);
  conv2d_bfloat16_pool_backward_filter(dy, taps, x, dw);

  Tensor map = Tensor::empty({s.N, s.H, s.W, s.O}), y32 = Tensor::empty(dy.shape()), taps32 = Tensor::like(taps);
  conv2d_forward(x.to(Dtype::float32), w, b, kOptions, map);
  max_pool2d_forward(map, {2, 2, 0}, y32, taps32);
  expect_near(y, y32, 9 * s.C, 1, "y");
  EXPECT_TRUE(same_bits(taps, taps32));
  max_pool2d_backward(dy.to(Dtype::float32), taps, {2, 2, 0}, map);
  Tensor dx32 = Tensor::empty(x.shape()), dw32 = Tensor::zeros(w.shape());
  conv2d_backward_data(map, w, kOptions, dx32);
  conv2d_backward_filter(map, x.to(Dtype::float32), kOptions, dw32);
  expect_near(dx, dx32, 9 * s.O, 1, "dx");
  expect_near(dw, dw32, s.N * s.H * s.W, 0, "dw");
}

TEST_F(Tiles, PoolInside) {
  expect_pooled({2, 7, 6, 16, 24});
  expect_pooled({1, 31, 31, 24, 16});
  expect_pooled({3, 2, 3, 16, 33});
}

TEST_F(Tiles, DoNotDependOnThreads) {
  const Tensor x = rounded({37, 7, 7, 24}, 1), dy = rounded({37, 7, 7, 16}, 3);
  const Tensor w = filters({37, 7, 7, 24, 16});
  expect_same_with_threads([&] {
    Tensor y = Tensor::like(dy), dw = Tensor::zeros(w.shape());
    conv2d_bfloat16_forward(x, w, Tensor(), y);
    conv2d_bfloat16_backward_filter(dy, x, dw);
    return std::vector{y, dw};
  });
}

// The operations themselves take this way.
TEST_F(Tiles, OperationsTakeThem) {
  const Tensor x = rounded({2, 6, 6, 16}, 1);
  const Parameter w(filters({2, 6, 6, 16, 16}), Role::matrix);
  Tensor y = Tensor::like(x);
  conv2d_bfloat16_forward(x, w.value(), Tensor(), y);
  EXPECT_TRUE(same_bits(conv2d(x, w, {}, kOptions), y));
  EXPECT_EQ(conv2d_max_pool2(x, Conv2d{w, {}, kOptions}).shape(), (Shape{2, 3, 3, 16}));
}

// Tiles, or dot products of pairs.
TEST(TileBlock, InstructionsMatchPlainCode) {
  use_tile_block(nullptr);
  if (!tile_block()) GTEST_SKIP() << "this processor has no such instructions, or the system does not permit them";
  const Tensor a = rounded({40, 96}, 1), b = rounded({48, 80}, 2);  // b: 48 pairs of rows of 40 columns
  const std::int64_t offsets[] = {0, 32, 64};
  for (int rows : {1, 2}) {
    for (int columns : {1, 2}) {
      for (bool add : {false, true}) {
        Tensor c = normal({32, 32}, 3).to(Dtype::float32), expected = c.clone();
        TileBlock block{rows,    columns, a.data<bfloat16>(), 96, offsets, b.data<bfloat16>(), 80, 32,
                        16 * 80, 3,       c.data<float>(),    32, add};
        tile_block()(block);
        block.c = expected.data<float>();
        tile_block_reference(block);
        EXPECT_LE(distance(c, expected), float_bound(96) * largest(expected)) << rows << " " << columns << " " << add;
      }
    }
  }
}

}  // namespace
}  // namespace dattn::test
