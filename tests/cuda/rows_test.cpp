// Rows of tables and totals of an epoch on the device: those of the CPU, whatever size, address and order.
#include "core/rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "cuda/enable.h"
#include "error_text.h"
#include "layers/totals.h"
#include "order.h"
#include "slots.h"

namespace dattn::test {
namespace {

class CudaRows : public testing::Test {
 protected:
  void SetUp() override { cuda::enable(); }
  void TearDown() override { run_in_order(0); }
};
class CudaTotals : public CudaRows {};

Shape table_of(std::int64_t rows, const Shape& row) {
  std::vector<std::int64_t> sizes{rows};
  sizes.insert(sizes.end(), row.begin(), row.end());
  return Shape(sizes);
}

TEST_F(CudaRows, EveryTypeAndSizeAtEveryAddress) {
  const Shape rows[] = {{}, {3}, {5, 7}, {2, 4, 6}, {1025}};
  for (const Dtype dtype :
       {Dtype::float32, Dtype::float64, Dtype::bfloat16, Dtype::int64, Dtype::int32, Dtype::uint8}) {
    for (const Shape& row : rows) {
      const std::int64_t n = row.elements();
      const Tensor flat = normal({4 * n + 1}, 1, 10, 100).to(dtype), there = flat.to(Device::cuda);
      for (const std::int64_t begin : {0, 1}) {  // the second at an odd address
        const Tensor table = there.slice(begin, begin + 4 * n).view(table_of(4, row));
        Tensor index = Tensor::zeros({}, Dtype::int64, Device::cuda);
        Tensor space = Tensor::zeros({n + 1}, dtype, Device::cuda), y = space.slice(begin, begin + n).view(row);
        for (std::int64_t r = 0; r < 4; ++r) {
          take_row(table, index, y);
          const Tensor expected = flat.slice(begin + r * n, begin + (r + 1) * n).view(row);
          ASSERT_TRUE(same_bits(y.to(Device::cpu), expected)) << name(dtype) << row.text() << " row " << r;
          advance(index);
        }
        EXPECT_EQ(index.item(), 4);
        EXPECT_EQ(space.to(Device::cpu).at(begin == 0 ? n : 0), 0);
      }
    }
  }
}

TEST_F(CudaRows, OutsideOfTheTableIsNotANumber) {
  const Tensor floats = on_device(normal({2, 4}, 1)), codes = on_device(normal({2, 3}, 1), Dtype::int32);
  for (const std::int64_t outside : {-1, 2}) {
    const Tensor index = Tensor::scalar(outside).to(Device::cuda);
    Tensor y = empty_on_device({4}), code = empty_on_device({3}, Dtype::int32);
    take_row(floats, index, y);
    take_row(codes, index, code);
    for (std::int64_t i = 0; i < 4; ++i) EXPECT_TRUE(std::isnan(y.to(Device::cpu).at(i)));
    for (std::int64_t i = 0; i < 3; ++i) EXPECT_EQ(code.to(Device::cpu).at(i), -1);
  }
}

TEST_F(CudaRows, PlacesThatDoNotFitAreRefused) {
  const Tensor table = on_device(normal({2, 4}, 1));
  Tensor y = empty_on_device({4});
  EXPECT_EQ(error_text([&] { take_row(table, Tensor::scalar<std::int64_t>(0), y); }),
            "take_row: expected all on cuda, the index is on cpu, y on cuda");
}

// Totals here and there after the same batches.
struct Totals {
  Tensor here = Tensor::from<double>({3}, {0, 0, -1}), there = here.to(Device::cuda);

  void add(const Tensor& logits, const Tensor& labels, float loss, double factor, std::int64_t step) {
    const Tensor value = Tensor::scalar(loss), number = Tensor::scalar(step);
    add_to_totals(logits, labels, value, factor, number, here);
    add_to_totals(logits.to(Device::cuda), labels.to(Device::cuda), value.to(Device::cuda), factor,
                  number.to(Device::cuda), there);
  }
  void expect_same() const {
    const Tensor back = there.to(Device::cpu);
    EXPECT_TRUE(same_bits(back, here)) << back.at(0) << " " << back.at(1) << " " << back.at(2) << ", expected "
                                       << here.at(0) << " " << here.at(1) << " " << here.at(2);
  }
};

TEST_F(CudaTotals, CountAsTheCpuDoes) {
  Totals totals;
  std::int64_t step = 0;
  for (const std::int64_t rows : {1, 31, 2500}) {
    for (const std::int64_t classes : {1, 10, 103}) {
      run_in_order(static_cast<int>(step));
      // Few different logits, so that many are equal.
      const Tensor logits = normal({rows, classes}, 1, 3).to(Dtype::int32).to(Dtype::float32);
      Tensor labels = Tensor::empty({rows}, Dtype::int64);
      for (std::int64_t n = 0; n < rows; ++n) labels.data<std::int64_t>()[n] = n % std::min<std::int64_t>(classes, 3);
      totals.add(logits, labels, 0.1f * static_cast<float>(step), 2.5, step);
      ++step;
    }
  }
  totals.expect_same();
  EXPECT_GT(totals.here.at(1), 2500);
}

TEST_F(CudaTotals, LostNumbersAsOnTheCpu) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  const Tensor logits = Tensor::from<float>(
      {5, 3}, {kNan, 1, 2, 1, kNan, 2, -kInfinity, -kInfinity, kNan, kNan, kNan, kNan, 0, kInfinity, kInfinity});
  const Tensor labels = Tensor::from<std::int64_t>({5}, {0, 2, 0, 0, 1});
  Totals totals;
  totals.add(logits, labels, 1, 1, 3);
  EXPECT_EQ(totals.here.at(1), 5);
  totals.expect_same();
  totals.add(logits, labels, kInfinity, 1, 4);
  totals.add(logits, labels, 2, 1, 5);
  totals.add(logits, labels, -kInfinity, 0.5, 6);
  const Tensor back = totals.there.to(Device::cpu);
  EXPECT_TRUE(std::isnan(back.at(0)));
  EXPECT_EQ(back.at(1), 20);
  EXPECT_EQ(back.at(2), 4);
}

}  // namespace
}  // namespace dattn::test
