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
  /// Lets a device with tensor cores for bfloat16 hold the iterates in it, with sums in float32, as PyTorch does: the
  /// result is as far from the exact one as PyTorch's, a percent or two of its norm after five steps (more where
  /// singular values are tiny, as steps enlarge them with their rounding). The CPU computes in the type of the
  /// matrices.
  bool bfloat16_on_device = true;
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
/// does not change orthogonalise(u). On the CPU it works in float32 (or float64) throughout, where PyTorch iterates in
/// bfloat16; on a device NewtonSchulz says.
class Muon final : public Optimizer {
 public:
  /// Error for a parameter of rank below 2.
  explicit Muon(std::vector<ParameterGroup> groups, MuonOptions options = {});

 private:
  void write_numbers_of(const ParameterGroup& group, std::int64_t t, double* numbers) const override;
  void update_group(std::size_t g, const Tensor& numbers) override;

  MuonOptions options_;
};

/// The nearest thing to an orthogonal matrix after some steps, for x [O, ...] read as a matrix of O rows.
Tensor orthogonalise(const Tensor& x, NewtonSchulz options = {});

/// What an update reads from its tensor of numbers.
struct MuonNumbers {
  double lr;
  double keep;  ///< 1 - lr weight_decay
  double gradient_scale;
};
/// m = momentum m + gradient_scale grad; u = gradient_scale grad + momentum m, or m without Nesterov. All [elements].
extern Kernel<void(const Tensor& grad, Tensor& m, Tensor& u, const Tensor& numbers, const MuonOptions& options)>
    muon_momentum;

/// w = keep w - lr scale orthogonalise(u), and with normalise_weights w = keep sqrt(O) / |w| w - lr scale
/// orthogonalise(u), for each of `count` matrices. Both [count, O, I]; u is overwritten.
extern Kernel<void(Tensor& u, Tensor& w, const Tensor& numbers, const MuonOptions& options)> muon_update;

/// The factor of the rate for matrices of O rows and I columns.
double rate_factor(MuonScale scale, std::int64_t O, std::int64_t I);
/// The coefficients of the iteration.
inline constexpr double kMuonA = 3.4445, kMuonB = -4.7750, kMuonC = 2.0315;

}  // namespace dattn
