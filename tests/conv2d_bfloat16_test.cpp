// Convolution by tiles of bfloat16 against direct sums in double; and the tile instructions themselves.
#include "layers/conv2d_bfloat16.h"

#include <gtest/gtest.h>

#include <cmath>

#include "layers/conv2d_max_pool.h"
#include "layers/pool2d.h"
#include "op_cases.h"
#include "op_compare.h"
#include "pick.h"
#include "small.h"
#include "tile_blocks.h"

namespace dattn::test {
namespace {

struct Sizes {
  std::int64_t N, H, W, C, O;
};

// Filters that bfloat16 holds, so that only sums and results are rounded.
Tensor filters(const Sizes& s) { return rounded({s.O, 3, 3, s.C}, 2).to(Dtype::float32); }

constexpr Conv2dOptions kOptions{.padding = 1};

void expect_direct(const Sizes& s) {
  SCOPED_TRACE(fmt::format("{} images of {} x {} x {} to {}", s.N, s.H, s.W, s.C, s.O));
  const Tensor x = rounded({s.N, s.H, s.W, s.C}, 1), dy = rounded({s.N, s.H, s.W, s.O}, 3), w = filters(s),
               b = normal({s.O}, 4).to(Dtype::float32);
  const auto wide = [](const Tensor& t) { return t.to(Dtype::float64); };
  Tensor y64 = wide(dy).clone(), dx64 = wide(x).clone(), dw64 = Tensor::full(w.shape(), 2, Dtype::float64);
  conv2d_forward(wide(x), wide(w), wide(b), kOptions, y64);
  conv2d_backward_data(wide(dy), wide(w), kOptions, dx64);
  conv2d_backward_filter(wide(dy), wide(x), kOptions, dw64);
  on_every_tile_block([&] {
    ASSERT_TRUE(conv2d_bfloat16_suits(x, w, kOptions));
    Tensor y = Tensor::like(dy), dx = Tensor::like(x), dw = Tensor::full(w.shape(), 2);
    conv2d_bfloat16_forward(x, w, b, y);
    conv2d_bfloat16_backward_data(dy, w, dx);
    conv2d_bfloat16_backward_filter(dy, x, dw);
    expect_near(y, y64, 9 * s.C, 1, "y");
    expect_near(dx, dx64, 9 * s.O, 1, "dx");
    expect_near(dw, dw64, s.N * s.H * s.W, 0, "dw");
  });
}

TEST(Conv2dBfloat16, MatchDirectSumsInDouble) {
  expect_direct({2, 5, 7, 16, 16});
  expect_direct({3, 7, 7, 33, 40});
  expect_direct({1, 31, 30, 24, 17});
  expect_direct({9, 3, 3, 20, 65});
  expect_direct({1, 1, 1, 16, 32});
  expect_direct({2, 2, 65, 16, 16});
}

TEST(Conv2dBfloat16, RandomSizesMatchDirectSumsInDouble) {
  Pick pick(1);
  for (int round = 0; round < rounds(40); ++round) {
    expect_direct({pick.small(1, 9), pick.small(1, 33), pick.small(1, 33), pick.small(16, 70), pick.small(16, 70)});
  }
}

void expect_pooled(const Sizes& s) {
  SCOPED_TRACE(fmt::format("{} images of {} x {} x {} to {}, pooled", s.N, s.H, s.W, s.C, s.O));
  const Tensor x = rounded({s.N, s.H, s.W, s.C}, 1), dy = rounded({s.N, s.H / 2, s.W / 2, s.O}, 3), w = filters(s),
               b = normal({s.O}, 4).to(Dtype::float32);

  Tensor map = Tensor::empty({s.N, s.H, s.W, s.O}), y32 = Tensor::empty(dy.shape()),
         taps32 = Tensor::empty(dy.shape(), Dtype::uint8);
  conv2d_forward(x.to(Dtype::float32), w, b, kOptions, map);
  max_pool2d_forward(map, {2, 2, 0}, y32, taps32);
  max_pool2d_backward(dy.to(Dtype::float32), taps32, {2, 2, 0}, map);
  Tensor dx32 = Tensor::empty(x.shape()), dw32 = Tensor::zeros(w.shape());
  conv2d_backward_data(map, w, kOptions, dx32);
  conv2d_backward_filter(map, x.to(Dtype::float32), kOptions, dw32);
  on_every_tile_block([&] {
    Tensor y = Tensor::like(dy), taps = Tensor::like(taps32), dx = Tensor::like(x), dw = Tensor::zeros(w.shape());
    conv2d_bfloat16_pool_forward(x, w, b, y, taps);
    conv2d_bfloat16_pool_backward_data(dy, taps, w, dx);
    conv2d_bfloat16_pool_backward_filter(dy, taps, x, dw);
    expect_near(y, y32, 9 * s.C, 1, "y");
    EXPECT_TRUE(same_bits(taps, taps32));
    expect_near(dx, dx32, 9 * s.O, 1, "dx");
    expect_near(dw, dw32, s.N * s.H * s.W, 0, "dw");
  });
}

TEST(Conv2dBfloat16, PoolInside) {
  expect_pooled({2, 7, 6, 16, 24});
  expect_pooled({1, 31, 31, 24, 16});
  expect_pooled({3, 2, 3, 16, 33});
}

TEST(Conv2dBfloat16, DoNotDependOnThreads) {
  const Tensor x = rounded({37, 7, 7, 24}, 1), dy = rounded({37, 7, 7, 16}, 3);
  const Tensor w = filters({37, 7, 7, 24, 16});
  on_every_tile_block([&] {
    expect_same_with_threads([&] {
      Tensor y = Tensor::like(dy), dw = Tensor::zeros(w.shape());
      conv2d_bfloat16_forward(x, w, Tensor(), y);
      conv2d_bfloat16_backward_filter(dy, x, dw);
      return std::vector{y, dw};
    });
  });
}

// The operations themselves take this way.
TEST(Conv2dBfloat16, OperationsTakeThem) {
  const Tensor x = rounded({2, 6, 6, 16}, 1);
  const Parameter w(filters({2, 6, 6, 16, 16}), Role::matrix);
  const UseTileBlock use(tile_block_reference);
  Tensor y = Tensor::like(x);
  conv2d_bfloat16_forward(x, w.value(), Tensor(), y);
  EXPECT_TRUE(same_bits(conv2d(x, w, {}, kOptions), y));
  EXPECT_EQ(conv2d_max_pool2(x, Conv2d{w, {}, kOptions}).shape(), (Shape{2, 3, 3, 16}));
}

TEST(TileBlock, InstructionsMatchPlainCode) {
  const Tensor a = rounded({40, 96}, 1), b = rounded({48, 80}, 2);  // b: 48 pairs of rows of 40 columns
  const std::int64_t offsets[] = {0, 32, 64};
  for (int rows : {1, 2}) {
    for (int columns : {1, 2}) {
      for (bool add : {false, true}) {
        SCOPED_TRACE(fmt::format("{} row tiles, {} column tiles{}", rows, columns, add ? ", added" : ""));
        const Tensor before = normal({32, 32}, 3).to(Dtype::float32);
        const auto product = [&](TileBlockFunction function) {
          Tensor c = before.clone();
          function({rows, columns, a.data<bfloat16>(), 96, offsets, b.data<bfloat16>(), 80, 32, 16 * 80, 3,
                    c.data<float>(), 32, add});
          return c;
        };
        const Tensor expected = product(tile_block_reference);
        on_every_tile_block(
            [&] { EXPECT_LE(distance(product(tile_block()), expected), float_bound(96) * largest(expected)); });
      }
    }
  }
}

// Where AMX's instructions are compiled they run in these tests: on tiles, or each emulated as it traps.
TEST(TileBlock, AmxInstructionsRunOnEveryMachine) {
  const AmxInstructions amx;
  ASSERT_EQ(amx.tile_block() != nullptr, tile_block_amx != nullptr);
  if (!tile_block_amx) GTEST_SKIP() << "the compiler does not know AMX's instructions";
  const bool trap = fast_tile_block() == nullptr;
  const long before = AmxInstructions::emulated();
  const Tensor a = rounded({16, 32}, 1), b = rounded({16, 32}, 2);
  Tensor c = Tensor::empty({16, 16});
  const std::int64_t offset = 0;
  amx.tile_block()(
      {1, 1, a.data<bfloat16>(), 32, &offset, b.data<bfloat16>(), 32, 0, 0, 1, c.data<float>(), 16, false});
  EXPECT_EQ(AmxInstructions::emulated() > before, trap);
}

}  // namespace
}  // namespace dattn::test
