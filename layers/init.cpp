// Initialisers: random ones through one fill loop, the whitening through Eigen's symmetric eigensolver.
#include "layers/init.h"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>

namespace dattn::init {

namespace {

template <typename F>
void fill(Tensor& w, F&& value) {
  dispatch_float("init", w.dtype(), [&]<typename T>() {
    std::generate_n(w.data<T>(), w.elements(), [&] { return static_cast<T>(value()); });
  });
}

double kaiming_std(const Tensor& w, double a, FanMode mode) {
  const Fan fan = fan_of(w.shape());
  return std::sqrt(2 / (1 + a * a) / static_cast<double>(mode == FanMode::in ? fan.in : fan.out));
}

double xavier_std(const Tensor& w, double gain) {
  const Fan fan = fan_of(w.shape());
  return gain * std::sqrt(2 / static_cast<double>(fan.in + fan.out));
}

void uniform_of_std(Tensor& w, double std, Random& random) {
  const double bound = std::sqrt(3.0) * std;
  uniform(w, -bound, bound, random);
}

}  // namespace

Fan fan_of(const Shape& weight) {
  check(weight.rank() == 2 || weight.rank() == 4, "init: expected a weight [out, in] or filters [O,Kh,Kw,I], got {}",
        weight);
  check(weight.elements() > 0, "init: a weight of shape {} has no elements", weight);
  const std::int64_t taps = weight.rank() == 4 ? weight[1] * weight[2] : 1;
  return {taps * weight[-1], taps * weight[0]};
}

void uniform(Tensor w, double low, double high, Random& random) {
  fill(w, [&] { return low + (high - low) * random.next_uniform(); });
}

void normal(Tensor w, double mean, double std, Random& random) {
  fill(w, [&] { return mean + std * random.next_normal(); });
}

void truncated_normal(Tensor w, double std, Random& random, double mean, double low, double high) {
  check(std > 0 && low < high && low <= mean + 2 * std && high >= mean - 2 * std,
        "truncated_normal: mean {} and std {} leave next to nothing within [{}, {}]", mean, std, low, high);
  fill(w, [&] {
    double value;
    do {
      value = mean + std * random.next_normal();
    } while (value < low || value > high);
    return value;
  });
}

void kaiming_uniform(Tensor w, double a, Random& random, FanMode mode) {
  uniform_of_std(w, kaiming_std(w, a, mode), random);
}
void kaiming_normal(Tensor w, double a, Random& random, FanMode mode) { normal(w, 0, kaiming_std(w, a, mode), random); }
void xavier_uniform(Tensor w, double gain, Random& random) { uniform_of_std(w, xavier_std(w, gain), random); }
void xavier_normal(Tensor w, double gain, Random& random) { normal(w, 0, xavier_std(w, gain), random); }

void dirac(Tensor w) {
  check(w.rank() == 4, "dirac: expected filters [O,Kh,Kw,I], got {}", w.shape());
  const std::int64_t O = w.size(0), Kh = w.size(1), Kw = w.size(2), I = w.size(3);
  w.fill(0);
  dispatch_float("dirac", w.dtype(), [&]<typename T>() {
    for (std::int64_t i = 0; i < std::min(O, I); ++i) w.data<T>()[((i * Kh + Kh / 2) * Kw + Kw / 2) * I + i] = 1;
  });
}

namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Mean of p p^T over all patches p of the images.
Matrix second_moments(const Tensor& images, std::int64_t Kh, std::int64_t Kw) {
  const std::int64_t n = images.size(0), H = images.size(1), W = images.size(2), run = Kw * images.size(3);
  const std::int64_t Ho = H - Kh + 1, Wo = W - Kw + 1;
  Matrix sum = Matrix::Zero(Kh * run, Kh * run), patches(Ho * Wo, Kh * run);
  for (std::int64_t image = 0; image < n; ++image) {
    const Tensor one = images.slice(image, image + 1).to(Dtype::float64);
    for (std::int64_t i = 0; i < Ho * Wo; ++i) {
      for (std::int64_t kh = 0; kh < Kh; ++kh) {
        const double* row = one.data<double>() + ((i / Wo + kh) * W + i % Wo) * images.size(3);
        std::copy_n(row, run, patches.data() + (i * Kh + kh) * run);
      }
    }
    sum.noalias() += patches.transpose() * patches;
  }
  return sum / static_cast<double>(n * Ho * Wo);
}

// +1 or -1, so that the element of largest size becomes positive; of nearly equal ones, the first.
double sign_of(const Eigen::VectorXd& v) {
  const double nearly = (1 - 1e-6) * v.cwiseAbs().maxCoeff();
  const auto first = std::find_if(v.begin(), v.end(), [&](double e) { return std::abs(e) >= nearly; });
  return *first < 0 ? -1 : 1;
}

}  // namespace

void whitening(Tensor w, const Tensor& images, double eps) {
  const auto shapes = [&] { return fmt::format("({}, {})", describe("w", w), describe("images", images)); };
  if (w.rank() != 4 || images.rank() != 4 || w.size(3) != images.size(3) || images.size(0) < 1) {
    fail("whitening: expected filters [O,Kh,Kw,C] and at least one image [n,H,W,C] {}", shapes());
  }
  const std::int64_t Kh = w.size(1), Kw = w.size(2), D = Kh * Kw * w.size(3);
  if (w.size(0) != 2 * D)
    fail("whitening: patches of {} numbers need {} filters, w has {} {}", D, 2 * D, w.size(0), shapes());
  if (images.size(1) < Kh || images.size(2) < Kw) fail("whitening: images are smaller than the filters {}", shapes());
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(second_moments(images, Kh, Kw));
  check(solver.info() == Eigen::Success,
        "whitening: the patches' second moments have no eigenvectors (images not finite?)");
  dispatch_float("whitening", w.dtype(), [&]<typename T>() {
    for (std::int64_t i = 0; i < D; ++i) {
      const Eigen::VectorXd v = solver.eigenvectors().col(i);
      const double scale = sign_of(v) / std::sqrt(solver.eigenvalues()[i] + eps);
      for (std::int64_t j = 0; j < D; ++j) {
        w.data<T>()[i * D + j] = static_cast<T>(scale * v[j]);
        w.data<T>()[(D + i) * D + j] = static_cast<T>(-scale * v[j]);
      }
    }
  });
}

Tensor default_weight(const Shape& weight, Random& random) {
  Tensor w = Tensor::empty(weight);
  kaiming_uniform(w, std::sqrt(5.0), random);
  return w;
}

Tensor default_bias(const Shape& weight, Random& random) {
  Tensor b = Tensor::empty({weight[0]});
  const double bound = 1 / std::sqrt(static_cast<double>(fan_of(weight).in));
  uniform(b, -bound, bound, random);
  return b;
}

}  // namespace dattn::init
