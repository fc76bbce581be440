// Muon against the literal iteration in double with Eigen, and how orthogonal its update is.
#include "optim/muon.h"

#include <gtest/gtest.h>

#include <Eigen/Eigenvalues>
#include <cmath>
#include <numeric>

#include "optim_model.h"

namespace dattn::test {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using FloatMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Matrix matrix_of(const Tensor& x) {
  const Tensor y = x.to(Dtype::float64);
  return Eigen::Map<const Matrix>(y.data<double>(), y.size(0), y.elements() / y.size(0));
}

Tensor tensor_of(const Matrix& x, Dtype dtype) {
  return Tensor::from<double>({x.rows(), x.cols()}, std::span(x.data(), static_cast<std::size_t>(x.size()))).to(dtype);
}

// a b by plain sums, in one place: blocked products of every kind of operands make Eigen slow to compile.
template <typename M>
M product(const M& a, const M& b) {
  return a.lazyProduct(b);
}

// The iteration as written, every step on x itself, in the matrix's own type.
template <typename M>
M literal(const M& g, int steps, double eps = 1e-7) {
  using T = typename M::Scalar;
  M x = g / (g.norm() + static_cast<T>(eps));
  const bool tall = g.rows() > g.cols();
  if (tall) x = x.transpose().eval();
  for (int i = 0; i < steps; ++i) {
    const M s = product<M>(x, x.transpose()), p = T(-4.7750) * s + T(2.0315) * product(s, s);
    x = T(3.4445) * x + product(p, x);
  }
  return tall ? M(x.transpose()) : x;
}

// rows x columns, its columns orthonormal, by Gram and Schmidt.
Matrix orthonormal(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
  Matrix q = matrix_of(normal({rows, columns}, seed));
  for (Eigen::Index j = 0; j < q.cols(); ++j) {
    for (Eigen::Index i = 0; i < j; ++i) q.col(j) -= q.col(i).dot(q.col(j)) * q.col(i);
    q.col(j).normalize();
  }
  return q;
}

// rows x columns with singular values from 1 down to `smallest`, evenly spaced in their logarithm.
Matrix with_condition(std::int64_t rows, std::int64_t columns, double smallest) {
  const std::int64_t n = std::min(rows, columns);
  const Eigen::VectorXd values = Eigen::VectorXd::LinSpaced(n, 0, std::log(smallest)).array().exp();
  return product<Matrix>(orthonormal(rows, n, 5) * values.asDiagonal(), orthonormal(columns, n, 8).transpose());
}

// Singular values of x: the roots of the eigenvalues of the smaller product of x with itself.
Eigen::VectorXd singular_values(const Matrix& x) {
  const Matrix y = x.transpose(), gram = x.rows() < x.cols() ? product(x, y) : product(y, x);
  return Eigen::SelfAdjointEigenSolver<Matrix>(gram, Eigen::EigenvaluesOnly).eigenvalues().cwiseSqrt();
}

TEST(Muon, OrthogonaliseEqualsTheLiteralIteration) {
  for (const auto& [rows, columns] : {std::pair{8, 27}, {27, 8}, {13, 13}, {1, 9}, {9, 1}, {64, 700}}) {
    for (const int steps : {1, 2, 3, 4, 5, 9}) {
      const Tensor x = normal({rows, columns}, 3, 10);
      const Matrix expected = literal(matrix_of(x), steps);
      EXPECT_LE((matrix_of(orthogonalise(x, {steps})) - expected).cwiseAbs().maxCoeff(), 1e-10)
          << rows << " x " << columns << " steps " << steps;
      EXPECT_LE((matrix_of(orthogonalise(x.to(Dtype::float32), {steps})) - expected).cwiseAbs().maxCoeff(), 1e-4)
          << rows << " x " << columns << " steps " << steps << " in float32";
    }
  }
}

// A step multiplies small singular values by 3.4, and round-off with them, in the literal iteration too.
TEST(Muon, Float32IsAsCloseToDoubleAsTheLiteralIteration) {
  std::vector<Matrix> inputs{with_condition(24, 90, 1e-2), with_condition(24, 90, 1e-4), with_condition(90, 24, 1e-6)};
  inputs.push_back(product(matrix_of(normal({24, 12}, 6)), matrix_of(normal({12, 90}, 7))));  // of rank 12
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    for (const int steps : {3, 5, 10}) {
      const Tensor x = tensor_of(inputs[k], Dtype::float32);
      const Matrix expected = literal(matrix_of(x), steps);
      const Matrix in_float = literal<FloatMatrix>(matrix_of(x).cast<float>(), steps).cast<double>();
      const double error = (matrix_of(orthogonalise(x, {steps})) - expected).norm();
      EXPECT_LE(error, 10 * (in_float - expected).norm() + 1e-6 * expected.norm())
          << "input " << k << " steps " << steps;
    }
  }
}

TEST(Muon, FiveStepsLeaveSingularValuesNearOne) {
  for (const auto& [rows, columns] : {std::pair{32, 32}, {32, 288}, {288, 32}}) {
    const Tensor x = tensor_of(with_condition(rows, columns, 0.05), Dtype::float32);
    const Eigen::VectorXd values = singular_values(matrix_of(orthogonalise(x)));
    EXPECT_GE(values.minCoeff(), 0.65) << rows << " x " << columns;
    EXPECT_LE(values.maxCoeff(), 1.25) << rows << " x " << columns;
  }
}

TEST(Muon, OrderOfColumnsDoesNotMatter) {
  const Matrix x = matrix_of(normal({6, 20}, 4));
  Eigen::PermutationMatrix<Eigen::Dynamic> p(20);
  for (int i = 0; i < 20; ++i) p.indices()[i] = (7 * i + 3) % 20;
  const Matrix moved = x * p;
  const Matrix result = matrix_of(orthogonalise(tensor_of(moved, Dtype::float64)));
  EXPECT_LE((result - matrix_of(orthogonalise(tensor_of(x, Dtype::float64))) * p).cwiseAbs().maxCoeff(), 1e-12);
}

TEST(Muon, AZeroGradientGivesNoUpdate) {
  const Tensor y = orthogonalise(Tensor::zeros({3, 5}));
  for (std::int64_t i = 0; i < y.elements(); ++i) EXPECT_EQ(y.at(i), 0);
}

// Neighbours of one shape go through the update together, without a change to any.
TEST(Muon, MatricesOfOneShapeAreUpdatedEachByItself) {
  std::vector<NamedParameter> parameters;
  for (std::uint32_t i = 0; i < 5; ++i) {
    parameters.push_back({"w" + std::to_string(i), normal_parameter({4, i < 4 ? 8 : 12}, i)});
    parameters[i].parameter.grad().copy_from(normal(parameters[i].parameter.shape(), 10 + i));
  }
  parameters[1].parameter.set_trainable(false);
  const MuonOptions options{.momentum = 0, .nesterov = false, .normalise_weights = true};
  std::vector<Matrix> expected;
  for (const auto& [name, p] : parameters) {
    const Matrix w = matrix_of(p.value());
    const Matrix moved = w * (2 / w.norm()) - 0.1 * matrix_of(orthogonalise(p.grad()));
    expected.push_back(p.trainable() ? moved : w);
  }
  FlatParameters flat({parameters});
  Muon muon({{flat.group(0), 0.1}}, options);
  muon.step();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    EXPECT_LE((matrix_of(parameters[i].parameter.value()) - expected[i]).cwiseAbs().maxCoeff(), 1e-13) << i;
  }
}

// The recipe of airbench94: plain sums as momentum, weights rescaled, no scale of the rate.
TEST(Muon, NormalisesWeightsLikeTheRecipe) {
  OptimModel model;
  FlatParameters flat(group_by_role(model.parameters, {{Role::matrix}, {Role::vector, Role::table}}));
  Muon muon({{flat.group(0), 0.24}},
            {.momentum = 0.6, .newton_schulz = {.steps = 3}, .scale = MuonScale::none, .normalise_weights = true});
  Matrix w[] = {matrix_of(model.parameters[0].parameter.value()), matrix_of(model.parameters[2].parameter.value())};
  Matrix m[] = {Matrix::Zero(5, 7), Matrix::Zero(5, 18)};
  for (std::int64_t step = 0; step < 4; ++step) {
    model.set_gradients(step);
    muon.step();
    for (std::size_t k : {0, 1}) {
      const Parameter& p = model.parameters[2 * k].parameter;
      const Matrix g = matrix_of(p.grad());
      m[k] = 0.6 * m[k] + g;
      w[k] = w[k] * (std::sqrt(5.0) / w[k].norm()) - 0.24 * literal(Matrix(g + 0.6 * m[k]), 3);
      EXPECT_LE((matrix_of(p.value()) - w[k]).cwiseAbs().maxCoeff(), 1e-10);
    }
  }
}

// torch.optim.Muon: momentum by averaging, decoupled decay, the rate scaled by the shape.
TEST(Muon, EqualsPyTorchsDefinition) {
  for (const MuonScale scale : {MuonScale::original, MuonScale::match_rms_adamw}) {
    for (const bool nesterov : {true, false}) {
      OptimModel model(Dtype::float64, 12);
      const Parameter& p = model.parameters[0].parameter;  // [12, 7]
      FlatParameters flat({{model.parameters[0]}});
      const double lr = 0.02, decay = 0.1, momentum = 0.95;
      Muon muon({{flat.group(0), lr, decay}}, {.momentum = momentum, .nesterov = nesterov, .scale = scale});
      const double rate = lr * (scale == MuonScale::original ? std::sqrt(12.0 / 7.0) : 0.2 * std::sqrt(12.0));
      Matrix w = matrix_of(p.value()), m = Matrix::Zero(12, 7);
      for (std::int64_t step = 0; step < 5; ++step) {
        model.set_gradients(step);
        const Matrix g = matrix_of(p.grad());
        m += (1 - momentum) * (g - m);
        const Matrix u = nesterov ? Matrix(g + momentum * (m - g)) : m;
        w = (1 - lr * decay) * w - rate * literal(u, 5);
        muon.step();
        EXPECT_LE((matrix_of(p.value()) - w).cwiseAbs().maxCoeff(), 1e-7);  // eps is added to norms of different scales
      }
    }
  }
}

}  // namespace
}  // namespace dattn::test
