// CPU kernel of Muon's update: the Newton-Schulz iteration by matrix products.
#include <algorithm>
#include <cmath>
#include <utility>

#include "core/gemm.h"
#include "core/ops.h"
#include "optim/gradient_norm.h"
#include "optim/muon.h"

namespace dattn {

namespace {

// Steps between two looks at x itself. A round-off error in a vanishing eigenvalue of the Gram matrix grows by a^2 = 12
// a step.
constexpr int kStepsAtOnce = 3;

// p = a I + b s + c s s, all [n,n].
template <typename T>
void polynomial(std::int64_t n, const T* s, T* p) {
  for (std::int64_t i = 0; i < n * n; ++i) p[i] = static_cast<T>(kMuonB) * s[i];
  for (std::int64_t i = 0; i < n; ++i) p[i * (n + 1)] += static_cast<T>(kMuonA);
  gemm<T>(Trans::no, Trans::no, n, n, n, static_cast<T>(kMuonC), s, n, s, n, 1, p, n);
}

// The iteration on the smaller side, n = min(rows, columns): with s = x x^T every factor p = a I + b s + c s s is a
// polynomial of the same symmetric matrix, so they commute, the next s is p s p, and the product q of the factors takes
// x to the last iterate at once. That costs two products of the long side instead of two a step.
template <typename T>
class NewtonSchulzIteration {
 public:
  NewtonSchulzIteration(std::int64_t rows, std::int64_t columns)
      : rows_(rows), columns_(columns), n_(std::min(rows, columns)), squares_(static_cast<std::size_t>(5 * n_ * n_)) {}

  // y = keep y + gain x', x' being x after the steps. x is overwritten where there are more than kStepsAtOnce.
  void run(int steps, T* x, T gain, T keep, T* y) {
    if (steps <= kStepsAtOnce) return apply(factor(steps, x), x, gain, keep, y);
    Scratch<T> next(static_cast<std::size_t>(rows_ * columns_));
    T* to = next.data();
    for (; steps > kStepsAtOnce; steps -= kStepsAtOnce, std::swap(x, to)) apply(factor(kStepsAtOnce, x), x, 1, 0, to);
    apply(factor(steps, x), x, gain, keep, y);
  }

 private:
  // The product of the factors of some steps from x: q [n,n].
  const T* factor(int steps, const T* x) {
    const std::int64_t nn = n_ * n_;
    T *s = squares_.data(), *p = s + nn, *q = p + nn, *ps = q + nn, *spare = ps + nn;
    const bool wide = rows_ <= columns_;
    gemm<T>(wide ? Trans::no : Trans::yes, wide ? Trans::yes : Trans::no, n_, n_, std::max(rows_, columns_), 1, x,
            columns_, x, columns_, 0, s, n_);
    polynomial(n_, s, q);
    for (int k = 1; k < steps; ++k) {
      const T* last = k == 1 ? q : p;  // the factor before
      product(last, s, ps);
      product(ps, last, s);
      polynomial(n_, s, p);
      product(p, q, spare);
      std::swap(q, spare);
    }
    return q;
  }

  void product(const T* a, const T* b, T* c) { gemm<T>(Trans::no, Trans::no, n_, n_, n_, 1, a, n_, b, n_, 0, c, n_); }

  // y = keep y + gain q x, or x q for a tall x.
  void apply(const T* q, const T* x, T gain, T keep, T* y) {
    const bool wide = rows_ <= columns_;
    gemm<T>(Trans::no, Trans::no, rows_, columns_, n_, gain, wide ? q : x, wide ? n_ : columns_, wide ? x : q,
            wide ? columns_ : n_, keep, y, columns_);
  }

  std::int64_t rows_, columns_, n_;
  Scratch<T> squares_;
};

// Scales u to the iteration's start and returns the factor of w.
double prepare(Tensor u, const Tensor& w, double keep, const MuonOptions& options) {
  if (options.normalise_weights) {
    const double w_norm = norm(w);
    if (w_norm > 0) keep *= std::sqrt(static_cast<double>(w.size(1))) / w_norm;
  }
  scale_forward(u, 1 / (norm(u) + options.newton_schulz.eps), u);
  return keep;
}

void muon_update_cpu(Tensor& u, Tensor& w, const Tensor& numbers, const MuonOptions& options) {
  const auto these = get_numbers<MuonNumbers>(numbers);
  const std::int64_t O = u.size(1), I = u.size(2);
  const double rate = these.lr * rate_factor(options.scale, O, I);
  dispatch_float("muon", u.dtype(), [&]<typename T>() {
    NewtonSchulzIteration<T> iteration(O, I);
    for (std::int64_t i = 0; i < u.size(0); ++i) {
      const double keep = prepare(u.slice(i, i + 1), w.slice(i, i + 1), these.keep, options);
      iteration.run(options.newton_schulz.steps, u.data<T>() + i * O * I, static_cast<T>(-rate), static_cast<T>(keep),
                    w.data<T>() + i * O * I);
    }
  });
}

}  // namespace

constinit Kernel<void(Tensor&, Tensor&, const Tensor&, const MuonOptions&)> muon_update{"muon_update", muon_update_cpu};

}  // namespace dattn
