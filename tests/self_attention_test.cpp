// The fused attention against the composed one in float64, on sizes around its tiles; extreme scores; names; errors.
#include "layers/self_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/ops.h"
#include "error_text.h"
#include "layers/activation.h"
#include "op_cases.h"

namespace dattn {
namespace {

using test::error_text;
using test::normal;

// x [N,T,C] as heads [N,M,T,D].
Tensor split_heads(const Tensor& x, std::int64_t heads) {
  return permute(reshape(x, {x.size(0), x.size(1), heads, x.size(2) / heads}), {0, 2, 1, 3});
}

// The same computation as separate nodes, with the whole score matrix.
Tensor composed_attention(const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t heads) {
  const double factor = 1 / std::sqrt(static_cast<double>(q.size(2) / heads));
  const Tensor scores = scale(matmul(split_heads(q, heads), split_heads(k, heads), Trans::no, Trans::yes), factor);
  const Tensor mix = matmul(softmax(scores), split_heads(v, heads));  // [N,M,T,D]
  return reshape(permute(mix, {0, 2, 1, 3}), q.shape());
}

void expect_close(const Tensor& a, const Tensor& b, const char* what, double bound) {
  ASSERT_EQ(a.shape(), b.shape());
  for (std::int64_t i = 0; i < a.elements(); ++i) ASSERT_NEAR(a.at(i), b.at(i), bound) << what << "[" << i << "]";
}

TEST(Attention, EqualsTheComposedOne) {
  struct Sizes {
    std::int64_t images, queries, keys, channels, heads;
    double size = 1;  // of the queries: the largest scores are some five times as large
  };
  for (const auto& [images, queries, keys, channels, heads, size] :
       {Sizes{2, 225, 225, 64, 8}, Sizes{2, 225, 225, 64, 8, 50}, Sizes{2, 49, 49, 256, 8}, Sizes{1, 47, 64, 8, 1},
        Sizes{3, 48, 63, 12, 4}, Sizes{3, 48, 63, 12, 4, 9}, Sizes{1, 49, 65, 10, 2}, Sizes{1, 1000, 130, 4, 1},
        Sizes{1, 1000, 130, 4, 1, 50}, Sizes{40, 3, 2, 6, 3}}) {
    SCOPED_TRACE(testing::Message() << images << " images, " << queries << " queries, " << keys << " keys, " << channels
                                    << " channels, queries of " << size);
    const Tensor dy = normal({images, queries, channels}, 9);
    Tensor results[2][4];
    for (int fused = 0; fused < 2; ++fused) {
      Tensor q = normal({images, queries, channels}, 1, size).track();
      Tensor k = normal({images, keys, channels}, 2).track(), v = normal({images, keys, channels}, 3).track();
      const Tensor y = fused ? attention(q, k, v, heads) : composed_attention(q, k, v, heads);
      backward(y, dy);
      const Tensor all[] = {y, q.grad(), k.grad(), v.grad()};
      std::copy(all, all + 4, results[fused]);
    }
    const char* names[] = {"y", "dq", "dk", "dv"};
    for (int i = 0; i < 4; ++i) expect_close(results[1][i], results[0][i], names[i], 1e-12 * size);
  }
}

TEST(Attention, OfOneKeyIsItsValue) {
  Tensor q = normal({1, 5, 4}, 1).track(), k = normal({1, 1, 4}, 2).track(), v = normal({1, 1, 4}, 3).track();
  const Tensor y = attention(q, k, v, 2);
  backward(y, normal({1, 5, 4}, 4));
  for (std::int64_t i = 0; i < 20; ++i) EXPECT_DOUBLE_EQ(y.at(i), v.at(i % 4));
  for (std::int64_t i = 0; i < 20; ++i) EXPECT_NEAR(q.grad().at(i), 0, 1e-14);
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_NEAR(k.grad().at(i), 0, 1e-14);
}

TEST(Attention, WithoutQueriesNothingIsLearnt) {
  Tensor q = Tensor::zeros({2, 0, 8}).track(), k = normal({2, 70, 8}, 2).to(Dtype::float32).track(),
         v = normal({2, 70, 8}, 3).to(Dtype::float32).track();
  const Tensor y = attention(q, k, v, 2);
  backward(y, Tensor::like(y));
  for (std::int64_t i = 0; i < k.elements(); ++i) EXPECT_EQ(k.grad().at(i), 0);
  for (std::int64_t i = 0; i < v.elements(); ++i) EXPECT_EQ(v.grad().at(i), 0);
}

TEST(Attention, ExtremeScoresStayFinite) {
  for (const double size : {1e4, 1e18}) {
    Tensor q = normal({1, 5, 8}, 1, size).to(Dtype::float32).track();
    Tensor k = normal({1, 70, 8}, 2, size).to(Dtype::float32).track(),
           v = normal({1, 70, 8}, 3).to(Dtype::float32).track();
    const Tensor y = attention(q, k, v, 2);
    backward(y, normal({1, 5, 8}, 4).to(Dtype::float32));
    for (std::int64_t i = 0; i < y.elements(); ++i) EXPECT_LE(std::abs(y.at(i)), 6) << size;
    for (std::int64_t i = 0; i < v.elements(); ++i) EXPECT_TRUE(std::isfinite(v.grad().at(i))) << size;
  }
}

TEST(Attention, ANumberThatIsNoneShows) {
  Tensor q = normal({1, 5, 4}, 1);
  q.data<double>()[4] = std::numeric_limits<double>::quiet_NaN();  // the second query
  const Tensor y = attention(q, normal({1, 7, 4}, 2), normal({1, 7, 4}, 3), 1);
  for (std::int64_t i = 0; i < 20; ++i) EXPECT_EQ(std::isnan(y.at(i)), i / 4 == 1) << i;
}

TEST(SelfAttention, HasThePeersNames) {
  Random random(1, Purpose::init);
  SelfAttention module(64, 8, random);
  EXPECT_EQ(parameter_count(module), 16'640);
  std::vector<std::string> names;
  for (const auto& p : parameters(module)) names.push_back(p.name);
  EXPECT_EQ(names, (std::vector<std::string>{"proj_q.weight", "proj_q.bias", "proj_k.weight", "proj_k.bias",
                                             "proj_v.weight", "proj_v.bias", "proj_out.weight", "proj_out.bias"}));
}

TEST(Attention, ErrorsByText) {
  const Tensor x = Tensor::zeros({2, 5, 6}), other = Tensor::zeros({2, 7, 6});
  EXPECT_EQ(
      error_text([&] { attention(x, x, other, 2); }),
      "attention: expected q [N,...,C] and k, v [N,...,C] of one type (q [2,5,6] float32, k [2,5,6] float32, v [2,7,6] "
      "float32)");
  EXPECT_EQ(error_text([&] { attention(x, x, x, 4); }),
            "attention: 4 heads do not divide 6 channels (q [2,5,6] float32)");
  EXPECT_EQ(error_text([&] {
              attention(x, Tensor::zeros({2, 0, 6}), Tensor::zeros({2, 0, 6}), 2);
            }),
            "attention: there is nothing to attend to (q [2,5,6] float32, k [2,0,6] float32)");
  EXPECT_EQ(error_text([&] {
              Random random(1, Purpose::init);
              SelfAttention(10, 4, random);
            }),
            "self_attention: 4 heads do not divide 10 channels");
}

}  // namespace
}  // namespace dattn
