// Normalisations, pooling and losses on the device where sizes take more than one block, vector or part, in both
// storage types; accuracy of moments; what differs from the CPU.
#include <gtest/gtest.h>

#include <cmath>
#include <ostream>

#include "cuda/enable.h"
#include "layers/batchnorm_gelu.h"
#include "layers/groupnorm.h"
#include "layers/layernorm.h"
#include "layers/loss.h"
#include "layers/pool2d.h"
#include "slots.h"

namespace dattn::test {
namespace {

struct Case {
  Shape shape;
  Dtype dtype;
};
void PrintTo(const Case& c, std::ostream* out) { *out << name(c.dtype) << ' ' << c.shape.text(); }

class CudaNorms : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override { cuda::enable(); }

  const Shape& shape() const { return GetParam().shape; }
  Dtype dtype() const { return GetParam().dtype; }
  Tensor activation(std::uint32_t lane, double mean = 0) const {
    return rounded(normal(shape(), lane, 1, mean), dtype());
  }
  Tensor channel(std::uint32_t lane, double mean = 0) const {
    return rounded(normal({shape()[-1]}, lane, 0.5, mean), Dtype::float32);
  }
  Tensor there(const Tensor& x) const { return on_device(x, dtype()); }
  Tensor result() const { return empty_on_device(shape(), dtype()); }
  double bound() const { return float_bound(shape().rows()); }
};

TEST_P(CudaNorms, BatchNorm) {
  const Tensor x = activation(1, 3), dy = activation(2), w = channel(3), b = channel(4);
  Tensor mean = Tensor::like(w), var = Tensor::like(w), y = Tensor::like(x), db = Tensor::like(w), dw = Tensor::like(w),
         dx = Tensor::like(x);
  batchnorm_statistics(x, mean, var);
  batchnorm_forward(x, mean, var, w, b, 1e-5, y);
  batchnorm_backward_sums(dy, x, mean, var, 1e-5, db, dw);
  batchnorm_backward(dy, x, mean, var, w, 1e-5, db, dw, dx);

  const Tensor w_there = on_device(w), b_there = on_device(b), x_there = there(x), dy_there = there(dy);
  Tensor m = Tensor::like(w_there), v = Tensor::like(w_there), out = result(), s = Tensor::like(w_there),
         p = Tensor::like(w_there);
  batchnorm_statistics(x_there, m, v);
  expect_near(m, mean, bound(), "mean");
  expect_near(v, var, bound(), "var");
  batchnorm_forward(x_there, m, v, w_there, b_there, 1e-5, out);
  expect_near(out, y, bound(), "y");
  batchnorm_backward_sums(dy_there, x_there, m, v, 1e-5, s, p);
  expect_near(s, db, bound(), "db");
  expect_near(p, dw, bound(), "dw");
  batchnorm_backward(dy_there, x_there, m, v, w_there, 1e-5, s, p, out);
  expect_near(out, dx, bound(), "dx");
  batchnorm_backward_fixed(dy, var, w, 1e-5, dx);
  batchnorm_backward_fixed(dy_there, v, w_there, 1e-5, out);
  expect_near(out, dx, bound(), "dx of evaluation");
}

TEST_P(CudaNorms, BatchNormGelu) {
  const Tensor x = activation(1, 3), dy = activation(2), w = channel(3), b = channel(4);
  Tensor mean = Tensor::like(w), var = Tensor::like(w), y = Tensor::like(x), db = Tensor::like(w), dw = Tensor::like(w),
         dx = Tensor::like(x);
  batchnorm_statistics(x, mean, var);
  batchnorm_gelu_forward(x, mean, var, w, b, 1e-5, y);
  batchnorm_gelu_backward_sums(dy, x, mean, var, w, b, 1e-5, db, dw);
  batchnorm_gelu_backward(dy, x, mean, var, w, b, 1e-5, db, dw, dx);

  const Tensor m = on_device(mean), v = on_device(var), w_there = on_device(w), b_there = on_device(b);
  const Tensor x_there = there(x), dy_there = there(dy);
  Tensor out = result(), s = Tensor::like(m), p = Tensor::like(m), none;
  batchnorm_gelu_forward(x_there, m, v, w_there, b_there, 1e-5, out);
  expect_near(out, y, bound(), "y");
  batchnorm_gelu_backward_sums(dy_there, x_there, m, v, w_there, b_there, 1e-5, s, p);
  expect_near(s, db, bound(), "db");
  expect_near(p, dw, bound(), "dw");
  batchnorm_gelu_backward(dy_there, x_there, m, v, w_there, b_there, 1e-5, s, p, out);
  expect_near(out, dx, bound(), "dx");
  batchnorm_gelu_backward(dy, x, mean, var, w, b, 1e-5, none, none, dx);
  batchnorm_gelu_backward(dy_there, x_there, m, v, w_there, b_there, 1e-5, none, none, out);
  expect_near(out, dx, bound(), "dx of evaluation");
}

TEST_P(CudaNorms, LayerNorm) {
  const Tensor x = activation(1, 3), dy = activation(2), w = channel(3), b = channel(4);
  Tensor y = Tensor::like(x), dx = Tensor::like(x), dw = channel(5), db = channel(6);
  Tensor out = result(), dw_there = on_device(dw), db_there = on_device(db);
  layernorm_forward(x, w, b, 1e-5, y);
  layernorm_backward(dy, x, w, 1e-5, dx, dw, db);
  layernorm_forward(there(x), on_device(w), on_device(b), 1e-5, out);
  expect_near(out, y, bound(), "y");
  layernorm_backward(there(dy), there(x), on_device(w), 1e-5, out, dw_there, db_there);
  expect_near(out, dx, bound(), "dx");
  expect_near(dw_there, dw, bound(), "dw");
  expect_near(db_there, db, bound(), "db");
}

TEST_P(CudaNorms, GroupNorm) {
  const std::int64_t groups = shape()[-1] % 4 == 0 ? 4 : 1;
  const Tensor x = activation(1, 3), dy = activation(2), w = channel(3), b = channel(4);
  Tensor y = Tensor::like(x), dx = Tensor::like(x), dw = channel(5), db = channel(6);
  Tensor out = result(), dw_there = on_device(dw), db_there = on_device(db);
  Tensor mean = Tensor::empty({shape()[0], groups}, Dtype::float64), s = Tensor::like(mean);
  Tensor m = empty_on_device(mean.shape()), s_there = empty_on_device(mean.shape());
  groupnorm_forward(x, w, b, 1e-5, y, mean, s);
  groupnorm_backward(dy, x, w, mean, s, dx, dw, db);
  groupnorm_forward(there(x), on_device(w), on_device(b), 1e-5, out, m, s_there);
  expect_near(out, y, bound(), "y");
  expect_near(s_there, s, bound(), "s");
  groupnorm_backward(there(dy), there(x), on_device(w), m, s_there, out, dw_there, db_there);
  expect_near(out, dx, bound(), "dx");
  expect_near(dw_there, dw, bound(), "dw");
  expect_near(db_there, db, bound(), "db");
}

TEST_P(CudaNorms, Pooling) {
  const Tensor x = activation(1);
  const PoolWindow window{3, 2, 1};
  const Shape small{shape()[0], (shape()[1] - 1) / 2 + 1, (shape()[2] - 1) / 2 + 1, shape()[3]};
  const Tensor dy = rounded(normal(small, 2), dtype()), dmean = rounded(normal({shape()[0], shape()[3]}, 3), dtype());
  Tensor y = Tensor::like(dy), dx = Tensor::like(x), mean = Tensor::like(dmean);
  Tensor out = empty_on_device(small, dtype()), back = result(), mean_there = empty_on_device(mean.shape(), dtype());
  avg_pool2d_forward(x, window, y);
  avg_pool2d_forward(there(x), window, out);
  expect_near(out, y, bound(), "average");
  avg_pool2d_backward(dy, window, dx);
  avg_pool2d_backward(there(dy), window, back);
  expect_near(back, dx, bound(), "dx of the average");
  Tensor taps = Tensor::empty(small, Dtype::uint8), taps_there = empty_on_device(small, Dtype::uint8);
  max_pool2d_forward(x, window, y, taps);
  max_pool2d_forward(there(x), window, out, taps_there);
  expect_near(out, y, 0, "maximum");
  EXPECT_TRUE(same_bits(taps_there.to(Device::cpu), taps));
  max_pool2d_backward(dy, taps, window, dx);
  max_pool2d_backward(there(dy), taps_there, window, back);
  expect_near(back, dx, bound(), "dx of the maximum");
  global_avg_pool_forward(x, mean);
  global_avg_pool_forward(there(x), mean_there);
  expect_near(mean_there, mean, bound(), "global average");
  global_avg_pool_backward(dmean, dx);
  global_avg_pool_backward(there(dmean), back);
  expect_near(back, dx, bound(), "dx of the global average");
}

std::string case_name(const testing::TestParamInfo<Case>& info) {
  std::string text = name(info.param.dtype);
  for (int i = 0; i < info.param.shape.rank(); ++i) text += "_" + std::to_string(info.param.shape[i]);
  return text;
}

INSTANTIATE_TEST_SUITE_P(Sizes, CudaNorms,
                         testing::ValuesIn({Case{{2, 17, 13, 24}, Dtype::float32},
                                            {{2, 17, 13, 24}, Dtype::bfloat16},
                                            {{3, 9, 7, 21}, Dtype::bfloat16},
                                            {{1, 11, 7, 5}, Dtype::bfloat16},
                                            {{1, 5, 7, 33}, Dtype::float32},
                                            {{1, 3, 7, 128}, Dtype::bfloat16},
                                            {{1, 3, 5, 264}, Dtype::float32},
                                            {{1, 3, 5, 264}, Dtype::bfloat16},
                                            {{1, 2, 2, 2056}, Dtype::float32}}),
                         case_name);

class CudaNorm : public testing::Test {
 protected:
  void SetUp() override { cuda::enable(); }
};

TEST_F(CudaNorm, MomentsAreAccurateWhereTheMeanIsLarge) {
  const Tensor x = rounded(normal({5000, 3}, 1, 1, 1e4), Dtype::float32);
  Tensor mean = Tensor::empty({3}, Dtype::float64), var = Tensor::like(mean);
  Tensor m = empty_on_device({3}), v = empty_on_device({3});
  batchnorm_statistics(x, mean, var);
  batchnorm_statistics(on_device(x), m, v);
  expect_near(m, mean, 1e-7, "mean");
  expect_near(v, var, 1e-5, "var");
}

TEST_F(CudaNorm, UpdateMovesTheRunningStatisticsAndCountsABatch) {
  Tensor mean = Tensor::full({2}, 1), var = Tensor::full({2}, 2), running_mean = Tensor::full({2}, 5),
         running_var = Tensor::full({2}, 1), batches = Tensor::full({}, 7, Dtype::int64);
  Tensor rm = running_mean.to(Device::cuda), rv = running_var.to(Device::cuda), count = batches.to(Device::cuda);
  batchnorm_update(mean, var, 9, 0.1, running_mean, running_var, batches);
  batchnorm_update(mean.to(Device::cuda), var.to(Device::cuda), 9, 0.1, rm, rv, count);
  expect_near(rm, running_mean.to(Dtype::float64), 1e-7, "mean");
  expect_near(rv, running_var.to(Dtype::float64), 1e-7, "var");
  EXPECT_EQ(count.to(Device::cpu).at(0), 8);
}

TEST_F(CudaNorm, MaximaOfNotANumber) {
  Tensor x = normal({1, 2, 2, 1}, 1).to(Dtype::float32), y = empty_on_device({1, 1, 1, 1}),
         taps = empty_on_device({1, 1, 1, 1}, Dtype::uint8);
  x.data<float>()[1] = NAN;
  max_pool2d_forward(x.to(Device::cuda), {2, 2, 0}, y, taps);
  EXPECT_TRUE(std::isnan(y.to(Device::cpu).at(0)));
  EXPECT_EQ(taps.to(Device::cpu).at(0), 1);
}

TEST_F(CudaNorm, CrossEntropyOfManyClassesAndRows) {
  for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16}) {
    for (const Shape& shape : {Shape{301, 10}, Shape{9, 100}, Shape{9, 200}, Shape{3, 2500}}) {
      const Tensor z = rounded(normal(shape, 1, 3), dtype);
      Tensor classes = Tensor::empty({shape[0]}, Dtype::int64);
      for (std::int64_t n = 0; n < shape[0]; ++n) classes.data<std::int64_t>()[n] = n * 7 % shape[1];
      Tensor loss = Tensor::empty({}, Dtype::float64), dz = Tensor::like(z), loss_there = empty_on_device({}),
             dz_there = empty_on_device(shape, dtype);
      const Tensor one = Tensor::full({}, 1, Dtype::float64);
      cross_entropy_forward(z, classes, 0.2, Reduction::mean, loss);
      cross_entropy_backward(one, z, classes, 0.2, Reduction::mean, dz);
      cross_entropy_forward(on_device(z, dtype), classes.to(Device::cuda), 0.2, Reduction::mean, loss_there);
      cross_entropy_backward(on_device(one), on_device(z, dtype), classes.to(Device::cuda), 0.2, Reduction::mean,
                             dz_there);
      expect_near(loss_there, loss, float_bound(shape[1]), "loss");
      expect_near(dz_there, dz, float_bound(shape[1]), "gradient");
    }
  }
}

// Where the CPU throws, nothing is read back from a device.
TEST_F(CudaNorm, AClassOutOfRangeGivesNoNumber) {
  for (const std::int64_t wrong : {-1, 3}) {
    Tensor classes = Tensor::zeros({2}, Dtype::int64), loss = empty_on_device({}), dz = empty_on_device({2, 3});
    classes.data<std::int64_t>()[1] = wrong;
    const Tensor z = on_device(normal({2, 3}, 1)), one = on_device(Tensor::full({}, 1));
    cross_entropy_forward(z, classes.to(Device::cuda), 0, Reduction::mean, loss);
    cross_entropy_backward(one, z, classes.to(Device::cuda), 0, Reduction::mean, dz);
    EXPECT_TRUE(std::isnan(loss.to(Device::cpu).at(0)));
    EXPECT_FALSE(std::isnan(dz.to(Device::cpu).at(0)));
    EXPECT_TRUE(std::isnan(dz.to(Device::cpu).at(3)));
  }
}

}  // namespace
}  // namespace dattn::test
