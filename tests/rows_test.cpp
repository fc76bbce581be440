// Rows of tables: every element type, and errors. The device's are in cuda/rows_test.cpp.
#include "core/rows.h"

#include <gtest/gtest.h>

#include "error_text.h"
#include "op_compare.h"

namespace dattn {
namespace {

using test::error_text;

Tensor number(std::int64_t value) { return Tensor::scalar(value); }

TEST(Rows, AreTakenByteForByteOneAfterTheOther) {
  for (const Dtype dtype :
       {Dtype::float32, Dtype::float64, Dtype::bfloat16, Dtype::int64, Dtype::int32, Dtype::uint8}) {
    const Tensor table = test::normal({4, 3, 5}, 1, 10, 100).to(dtype);
    Tensor index = number(0), y = Tensor::empty({3, 5}, dtype);
    for (std::int64_t row = 0; row < 4; ++row) {
      take_row(table, index, y);
      EXPECT_TRUE(test::same_bits(y, table.slice(row, row + 1).view({3, 5}))) << name(dtype) << " " << row;
      advance(index);
    }
    EXPECT_EQ(index.item(), 4);
  }
}

TEST(Rows, Errors) {
  const auto error = [](const Tensor& table, const Tensor& index, Tensor y) {
    return error_text([&] { take_row(table, index, y); });
  };
  const Tensor table = Tensor::zeros({4, 3}), index = number(4), y = Tensor::zeros({3});
  EXPECT_EQ(error(table, index, y), "take_row: no row 4 in [4,3]");
  EXPECT_EQ(error(table, number(-1), y), "take_row: no row -1 in [4,3]");
  EXPECT_EQ(error(table, index, Tensor::zeros({4})),
            "take_row: expected a table [R, ...], an index int64 [] and y like one row (table [4,3] float32, index [] "
            "int64, y [4] float32)");
  const std::string wrong = "take_row: expected a table";
  EXPECT_EQ(error(table, index, Tensor::zeros({3}, Dtype::int32)).substr(0, wrong.size()), wrong);
  EXPECT_EQ(error(table, Tensor::zeros({}), y).substr(0, wrong.size()), wrong);
  EXPECT_EQ(error(Tensor::zeros({}), index, Tensor::zeros({})).substr(0, wrong.size()), wrong);
}

}  // namespace
}  // namespace dattn
