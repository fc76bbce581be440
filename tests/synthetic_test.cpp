// The synthetic set: the same from the same seed, and too hard for a linear classifier.
#include "datasets/synthetic.h"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <cstring>

#include "core/parallel.h"
#include "data_files.h"
#include "datasets/augment.h"
#include "error_text.h"
#include "small.h"

namespace dattn::test {

namespace {

bool same(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
}

TEST(Synthetic, TheSeedFixesEveryByte) {
  const int threads = thread_count();
  set_thread_count(1);
  const DataSets a = make_synthetic({.train = 200, .test = 50, .seed = 4});
  set_thread_count(3);
  const DataSets b = make_synthetic({.train = 200, .test = 50, .seed = 4});
  const DataSets longer = make_synthetic({.train = 300, .test = 50, .seed = 4});
  const DataSets other = make_synthetic({.train = 200, .test = 50, .seed = 5});
  set_thread_count(threads);
  EXPECT_TRUE(same(a.train.images, b.train.images) && same(a.test.images, b.test.images));
  EXPECT_TRUE(same(a.train.images, longer.train.images.slice(0, 200)));
  EXPECT_FALSE(same(a.train.images, other.train.images));
  EXPECT_FALSE(same(a.train.images.slice(0, 50), a.test.images));
}

TEST(Synthetic, InCifarsFormat) {
  const DataSets data = load_data("synthetic");
  EXPECT_EQ(data.name, "synthetic");
  EXPECT_EQ(data.train.images.shape(), Shape({10000, 32, 32, 3}));
  EXPECT_EQ(data.test.images.shape(), Shape({2000, 32, 32, 3}));
  ASSERT_EQ(data.train.classes(), 10);
  for (std::int64_t i = 0; i < 30; ++i) EXPECT_EQ(data.train.labels.at(i), i % 10);
  for (std::size_t c = 0; c < 3; ++c) {
    EXPECT_NEAR(data.normalisation.mean[c], 0.5, 0.05);
    EXPECT_GT(data.normalisation.std[c], 0.2);
  }
  EXPECT_EQ(error_text([] { make_synthetic({.train = 0}); }),
            "synthetic: expected at least 1 image to train and to test on, got 0 and 2000");
}

// Soft-max regression on the pixels, by Nesterov's method on all training images.
TEST(Synthetic, ALinearClassifierFails) {
  if (small()) GTEST_SKIP() << "a fact about the images, which the long tests check";
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const DataSets data = make_synthetic({.train = 5000, .test = 1000});
  const auto rows = [&](const ImageSet& set) {
    const Tensor x = normalise(set.images, data.normalisation);
    return Matrix(Eigen::Map<const Matrix>(x.data<float>(), set.count(), 3072));
  };
  const auto hits = [](const Matrix& scores, const ImageSet& set) {
    int count = 0;
    for (Eigen::Index i = 0; i < scores.rows(); ++i) {
      Eigen::Index best;
      scores.row(i).maxCoeff(&best);
      count += best == static_cast<Eigen::Index>(set.labels.at(i));
    }
    return static_cast<double>(count) / static_cast<double>(set.count());
  };
  const Matrix x = rows(data.train), xt = rows(data.test);
  Matrix w = Matrix::Zero(3072, 10), step = w;
  for (int i = 0; i < 40; ++i) {
    Matrix p = x * (w + 0.9f * step);
    p = (p.colwise() - p.rowwise().maxCoeff()).array().exp().matrix();
    p.array().colwise() /= p.rowwise().sum().array().eval();
    for (Eigen::Index n = 0; n < p.rows(); ++n) p(n, static_cast<Eigen::Index>(data.train.labels.at(n))) -= 1;
    step = 0.9f * step - 0.02f / static_cast<float>(p.rows()) * (x.transpose() * p);
    w += step;
  }
  const double train = hits(x * w, data.train), test = hits(xt * w, data.test);
  RecordProperty("linear_train", std::to_string(train));
  RecordProperty("linear_test", std::to_string(test));
  EXPECT_GT(train, 0.2) << "the classifier has not learnt anything: the test would be empty";
  EXPECT_LT(test, 0.6);
}

}  // namespace

}  // namespace dattn::test
