// Adam (Kingma & Ba, arXiv 1412.6980) and AdamW (Loshchilov & Hutter, arXiv 1711.05101), as PyTorch defines them. At
// step t:
//   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,
//   w = w - lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps).
// Adam adds the decay to the gradient, g = grad + weight_decay w; AdamW to the weights, w = (1 - lr weight_decay) w
// first.
#pragma once

#include "core/kernel.h"
#include "optim/optimizer.h"

namespace dattn {

struct AdamOptions {
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-8;
};

class Adam : public Optimizer {
 public:
  /// Error for options out of range.
  explicit Adam(std::vector<ParameterGroup> groups, AdamOptions options = {})
      : Adam("adam", std::move(groups), options, false) {}

 protected:
  Adam(const char* name, std::vector<ParameterGroup> groups, AdamOptions options, bool decoupled_decay);

 private:
  void write_numbers_of(const ParameterGroup& group, std::int64_t t, double* numbers) const override;
  void update_group(std::size_t g, const Tensor& numbers) override;

  AdamOptions options_;
  bool decoupled_decay_;
};

class AdamW final : public Adam {
 public:
  explicit AdamW(std::vector<ParameterGroup> groups, AdamOptions options = {})
      : Adam("adamw", std::move(groups), options, true) {}
};

/// What an update reads from its tensor of numbers.
struct AdamNumbers {
  double rate;            ///< lr / (1 - beta1^t)
  double root;            ///< 1 / sqrt(1 - beta2^t), the factor of sqrt(v)
  double gradient_decay;  ///< weight_decay of Adam, 0 for AdamW
  double keep;            ///< factor of the weights: 1 for Adam, 1 - lr weight_decay for AdamW
  double gradient_scale;
};
/// w, grad, m and v [elements]; m and v are PyTorch's exp_avg and exp_avg_sq.
extern Kernel<void(Tensor& w, const Tensor& grad, Tensor& m, Tensor& v, const Tensor& numbers,
                   const AdamOptions& options)>
    adam_update;

}  // namespace dattn
