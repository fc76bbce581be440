// Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): momentum whose matrices are made nearly orthogonal.
//   m = momentum m + grad,  u = grad + momentum m with Nesterov, m without,
//   w = (1 - lr weight_decay) w - lr scale orthogonalise(u).
//
// orthogonalise(u) sends u = U S V^T to nearly U V^T by steps of the Newton-Schulz iteration, starting from x = u /
// (|u| + eps):
//   x = (a I + b A + c A A) x,  A = x x^T,  (a, b, c) = (3.4445, -4.7750, 2.0315);
// five steps leave singular values between about 0.7 and 1.2, unless they were tiny in u.
//
// A filter bank [O,Kh,Kw,I] is read as the matrix [O, Kh Kw I]. PyTorch's order O,I,Kh,Kw permutes its columns: u P
// instead of u. P is orthogonal, so A and the norm are the same, and orthogonalise(u P) = orthogonalise(u) P: the
// result does not change.
#pragma once

#include "core/kernel.h"
#include "optim/optimizer.h"

namespace dattn {

/// Factor of the learning rate for a matrix of O rows and I columns.
enum class MuonScale : unsigned char {
  none,            ///< 1
  original,        ///< sqrt(max(1, O / I)): PyTorch's default
  match_rms_adamw  ///< 0.2 sqrt(max(O, I)): lets Muon take AdamW's rates (Liu et al., arXiv 2502.16982)
};

struct NewtonSchulz {
  int steps = 5;
  double eps = 1e-7;
};

struct MuonOptions {
  double momentum = 0.95;
  bool nesterov = true;
  NewtonSchulz newton_schulz = {};
  MuonScale scale = MuonScale::original;
  /// Rescales every matrix to norm sqrt(O) before its update, as airbench94 does (arXiv 2404.00498), which belongs to
  /// MuonScale::none. A matrix of zeros stays as it is.
  bool normalise_weights = false;
};

/// Equal to torch.optim.Muon, which averages its momentum with weights momentum and 1 - momentum: that scales u, which
/// does not change orthogonalise(u). It works in float32 (or float64) throughout, where PyTorch iterates in bfloat16.
class Muon final : public Optimizer {
 public:
  /// Error for a parameter of rank below 2.
  explicit Muon(std::vector<ParameterGroup> groups, MuonOptions options = {});

 private:
  void update(std::size_t g) override;

  MuonOptions options_;
};

/// The nearest thing to an orthogonal matrix after some steps, for x [O, ...] read as a matrix of O rows.
Tensor orthogonalise(const Tensor& x, NewtonSchulz options = {});

/// m = momentum m + gradient_scale grad; u = gradient_scale grad + momentum m, or m without Nesterov. All [elements].
struct MuonMomentum {
  double momentum, gradient_scale;
  bool nesterov;
};
extern Kernel<void(const Tensor& grad, Tensor& m, Tensor& u, const MuonMomentum& step)> muon_momentum;

/// w = keep w - lr orthogonalise(u), and with normalise_weights w = keep sqrt(O) / |w| w - lr orthogonalise(u). Both
/// [O, I]; u is overwritten. keep = 0 does not read w.
struct MuonStep {
  double lr, keep;
  bool normalise_weights;
  NewtonSchulz newton_schulz;
};
extern Kernel<void(Tensor& u, Tensor& w, const MuonStep& step)> muon_update;

}  // namespace dattn
