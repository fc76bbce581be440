// Stochastic gradient descent with momentum, as PyTorch defines it with dampening 0:
//   g = grad + weight_decay w,  m = momentum m + g,  w = w - lr (g + momentum m) with Nesterov, w - lr m without.
#pragma once

#include "core/kernel.h"
#include "optim/optimizer.h"

namespace dattn {

struct SgdOptions {
  double momentum = 0;    ///< 0 keeps no state
  bool nesterov = false;  ///< wants a momentum
};

class Sgd final : public Optimizer {
 public:
  /// Error for Nesterov without momentum.
  explicit Sgd(std::vector<ParameterGroup> groups, SgdOptions options = {});

 private:
  void update(std::size_t g) override;

  SgdOptions options_;
};

/// The numbers of one update.
struct SgdStep {
  double lr, momentum, weight_decay, gradient_scale;
  bool nesterov;
};
/// All tensors [elements]; m is undefined where momentum is 0.
extern Kernel<void(Tensor& w, const Tensor& grad, Tensor& m, const SgdStep& step)> sgd_update;

}  // namespace dattn
