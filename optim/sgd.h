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
  /// Error for a momentum out of range, and for Nesterov without one.
  explicit Sgd(std::vector<ParameterGroup> groups, SgdOptions options = {});

 private:
  void write_numbers_of(const ParameterGroup& group, std::int64_t t, double* numbers) const override;
  void update_group(std::size_t g, const Tensor& numbers) override;

  SgdOptions options_;
};

/// What an update reads from its tensor of numbers.
struct SgdNumbers {
  double lr, weight_decay, gradient_scale;
};
/// w, grad and m [elements]; m is undefined where momentum is 0.
extern Kernel<void(Tensor& w, const Tensor& grad, Tensor& m, const Tensor& numbers, const SgdOptions& options)>
    sgd_update;

}  // namespace dattn
