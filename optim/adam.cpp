// Adam and AdamW: their checks, bias corrections and the loop over groups.
#include "optim/adam.h"

#include <cmath>
#include <utility>

namespace dattn {

Adam::Adam(const char* name, std::vector<ParameterGroup> groups, AdamOptions options, bool decoupled_decay)
    : Optimizer(name, std::move(groups), {"exp_avg", "exp_avg_sq"}),
      options_(options),
      decoupled_decay_(decoupled_decay) {
  check(options.beta1 >= 0 && options.beta1 < 1, "{}: beta1 expected in [0, 1), got {}", name, options.beta1);
  check(options.beta2 >= 0 && options.beta2 < 1, "{}: beta2 expected in [0, 1), got {}", name, options.beta2);
  check(options.eps >= 0, "{}: eps expected to be at least 0, got {}", name, options.eps);
}

void Adam::update(std::size_t g) {
  const ParameterGroup& group = groups()[g];
  const auto t = static_cast<double>(steps());
  const auto [beta1, beta2, eps] = options_;
  const AdamStep step{.lr = group.lr,
                      .beta1 = beta1,
                      .beta2 = beta2,
                      .eps = eps,
                      .correction1 = 1 - std::pow(beta1, t),
                      .correction2 = 1 - std::pow(beta2, t),
                      .gradient_decay = decoupled_decay_ ? 0 : group.weight_decay,
                      .keep = decoupled_decay_ ? 1 - group.lr * group.weight_decay : 1,
                      .gradient_scale = group.gradient_scale};
  for_trained_runs(group.flat, [&](std::int64_t begin, std::int64_t end) {
    Tensor w = group.flat.values.slice(begin, end);
    Tensor m = moment(0, g).slice(begin, end), v = moment(1, g).slice(begin, end);
    adam_update(w, group.flat.grads.slice(begin, end), m, v, step);
  });
}

}  // namespace dattn
