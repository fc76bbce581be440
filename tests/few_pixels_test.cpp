// Convolutions of few pixels and linear layers of few or many rows, in float and bfloat16, against their definition in
// double.
#include "layers/conv2d_few_pixels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/parallel.h"
#include "instruction_sets.h"
#include "layers/linear.h"
#include "op_cases.h"

namespace dattn::test {
namespace {

// Of normal numbers: rounded to `dtype`, and held in double.
struct Rounded {
  Tensor value, wide;
  Rounded(const Shape& shape, std::uint32_t lane, Dtype dtype)
      : value(normal(shape, lane).to(dtype)), wide(value.to(Dtype::float64)) {}
};

// Every element within the bound of the suite Float for sums of `terms` products, or of the suite Bfloat16.
void expect_close(const Tensor& found, const Tensor& right, std::int64_t terms) {
  double largest = 0;
  for (std::int64_t i = 0; i < right.elements(); ++i) largest = std::max(largest, std::abs(right.at(i)));
  const bool half = found.dtype() == Dtype::bfloat16;
  const double bound = half ? 1.0 / 256 : (4 + 8 * std::sqrt(static_cast<double>(terms))) * 1.2e-7;
  for (std::int64_t i = 0; i < right.elements(); ++i) ASSERT_NEAR(found.at(i), right.at(i), bound * largest) << i;
}

// Calls f(y) with one thread and with three, for each type and on every instruction set; all must agree with `right`
// and each pair to the bit.
template <typename F>
void expect_on_any_threads(const Shape& shape, Dtype dtype, const Tensor& right, std::int64_t terms, F&& f) {
  const int threads = thread_count();
  on_every_instruction_set([&] {
    Tensor one = Tensor::empty(shape, dtype), three = Tensor::empty(shape, dtype);
    set_thread_count(1);
    f(one);
    set_thread_count(3);
    f(three);
    expect_close(one, right, terms);
    EXPECT_EQ(std::memcmp(one.raw(), three.raw(), one.bytes()), 0);
  });
  set_thread_count(threads);
}

struct Sizes {
  std::int64_t N, H, W, C, O, kernel;
  Conv2dOptions options;
};

void PrintTo(const Sizes& s, std::ostream* out) {
  *out << s.N << "x" << s.H << "x" << s.W << "x" << s.C << " to " << s.O << ", kernel " << s.kernel << ", stride "
       << s.options.stride;
}

// y by its definition.
Tensor convolved(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, const Shape& shape) {
  Tensor y = Tensor::empty(shape, Dtype::float64);
  const std::int64_t H = x.size(1), W = x.size(2), C = x.size(3), K = w.size(1), O = w.size(0);
  for (std::int64_t place = 0; place < y.elements(); ++place) {
    const std::int64_t out = place % O, j = place / O % shape[2], i = place / O / shape[2] % shape[1];
    double sum = b ? b.at(out) : 0;
    for (std::int64_t k = 0; k < K * K; ++k) {
      const std::int64_t h = i * o.stride - o.padding + k / K * o.dilation,
                         v = j * o.stride - o.padding + k % K * o.dilation;
      if (h < 0 || h >= H || v < 0 || v >= W) continue;
      const std::int64_t pixel = ((place / (O * shape[1] * shape[2]) * H + h) * W + v) * C;
      for (std::int64_t c = 0; c < C; ++c) sum += w.at((out * K * K + k) * C + c) * x.at(pixel + c);
    }
    y.data<double>()[place] = sum;
  }
  return y;
}

class FewPixels : public testing::TestWithParam<Sizes> {};

TEST_P(FewPixels, IsTheDefinition) {
  const Sizes s = GetParam();
  const Shape shape = {s.N, conv2d_size(s.H, s.kernel, s.options), conv2d_size(s.W, s.kernel, s.options), s.O};
  for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16, Dtype::float64}) {
    const Rounded x({s.N, s.H, s.W, s.C}, 1, dtype), w({s.O, s.kernel, s.kernel, s.C}, 2, exact_type(dtype)),
        b({s.O}, 3, exact_type(dtype));
    for (const bool with_bias : {true, false}) {
      const Tensor right = convolved(x.wide, w.wide, with_bias ? b.wide : Tensor(), s.options, shape);
      expect_on_any_threads(shape, dtype, right, s.kernel * s.kernel * s.C, [&](Tensor& y) {
        few_pixels_forward(x.value, w.value, with_bias ? b.value : Tensor(), s.options, y);
      });
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Conv2d, FewPixels,
                         testing::Values(Sizes{1, 1, 1, 37, 5, 3, {1, 1}}, Sizes{1, 3, 3, 64, 18, 3, {1, 1}},
                                         Sizes{2, 3, 5, 19, 33, 3, {1, 1}}, Sizes{1, 7, 7, 32, 35, 3, {1, 1}},
                                         Sizes{1, 8, 8, 7, 3, 3, {1, 1}}, Sizes{3, 9, 7, 1, 1, 3, {2, 1}},
                                         Sizes{1, 9, 8, 13, 16, 2, {2, 2, 3}}, Sizes{4, 1, 4, 8, 21, 1, {}},
                                         Sizes{1, 2, 2, 5, 4, 3, {1, 4}}));

TEST(Linear, OfFewAndManyRowsIsTheDefinition) {
  const std::int64_t shapes[][3] = {{1, 1, 1},   {1, 40, 130},  {2, 7, 3},   {9, 33, 19}, {49, 64, 64},
                                    {64, 5, 9},  {65, 5, 9},    {65, 33, 8}, {66, 16, 2}, {71, 64, 65},
                                    {73, 1, 32}, {100, 19, 47}, {200, 8, 16}};
  for (const auto& [rows, in, out] : shapes) {
    SCOPED_TRACE(fmt::format("{} rows, {} to {}", rows, in, out));
    for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16, Dtype::float64}) {
      const Rounded x({rows, in}, 1, dtype), w({out, in}, 2, exact_type(dtype)), b({out}, 3, exact_type(dtype));
      for (const bool with_bias : {true, false}) {
        Tensor right = Tensor::empty({rows, out}, Dtype::float64);
        for (std::int64_t i = 0; i < right.elements(); ++i) {
          double sum = with_bias ? b.wide.at(i % out) : 0;
          for (std::int64_t k = 0; k < in; ++k) sum += x.wide.at(i / out * in + k) * w.wide.at(i % out * in + k);
          right.data<double>()[i] = sum;
        }
        expect_on_any_threads({rows, out}, dtype, right, in,
                              [&](Tensor& y) { linear_forward(x.value, w.value, with_bias ? b.value : Tensor(), y); });
      }
    }
  }
}

TEST(Linear, DataGradientIsTheDefinition) {
  const std::int64_t shapes[][3] = {{1, 1, 1}, {5, 40, 130}, {71, 33, 19}, {26, 9, 64}, {49, 47, 8}};
  for (const auto& [rows, in, out] : shapes) {
    SCOPED_TRACE(fmt::format("{} rows, {} to {}", rows, in, out));
    for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16, Dtype::float64}) {
      const Rounded dy({rows, out}, 1, dtype), w({out, in}, 2, exact_type(dtype));
      Tensor right = Tensor::zeros({rows, in}, Dtype::float64);
      for (std::int64_t i = 0; i < right.elements(); ++i) {
        for (std::int64_t k = 0; k < out; ++k)
          right.data<double>()[i] += dy.wide.at(i / in * out + k) * w.wide.at(k * in + i % in);
      }
      expect_on_any_threads({rows, in}, dtype, right, out,
                            [&](Tensor& dx) { linear_backward_data(dy.value, w.value, dx); });
    }
  }
}

}  // namespace
}  // namespace dattn::test
