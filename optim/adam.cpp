// Adam and AdamW: their checks, the numbers of an update with its bias corrections, and the loop over a group.
#include "optim/adam.h"

#include <cmath>
#include <utility>

namespace dattn {

Adam::Adam(const char* name, std::vector<ParameterGroup> groups, AdamOptions options, bool decoupled_decay)
    : Optimizer(name, std::move(groups), {"exp_avg", "exp_avg_sq"}, kNumbers<AdamNumbers>),
      options_(options),
      decoupled_decay_(decoupled_decay) {
  check(options.beta1 >= 0 && options.beta1 < 1, "{}: beta1 expected in [0, 1), got {}", name, options.beta1);
  check(options.beta2 >= 0 && options.beta2 < 1, "{}: beta2 expected in [0, 1), got {}", name, options.beta2);
  check(options.eps >= 0, "{}: eps expected to be at least 0, got {}", name, options.eps);
}

void Adam::write_numbers_of(const ParameterGroup& group, std::int64_t t, double* numbers) const {
  const auto updates = static_cast<double>(t);
  put_numbers(AdamNumbers{.rate = group.lr / (1 - std::pow(options_.beta1, updates)),
                          .root = 1 / std::sqrt(1 - std::pow(options_.beta2, updates)),
                          .gradient_decay = decoupled_decay_ ? 0 : group.weight_decay,
                          .keep = decoupled_decay_ ? 1 - group.lr * group.weight_decay : 1,
                          .gradient_scale = group.gradient_scale},
              numbers);
}

void Adam::update_group(std::size_t g, const Tensor& numbers) {
  const FlatGroup& flat = groups()[g].flat;
  for_trained_runs(flat, [&](std::int64_t begin, std::int64_t end) {
    Tensor w = flat.values.slice(begin, end);
    Tensor m = moment(0, g).slice(begin, end), v = moment(1, g).slice(begin, end);
    adam_update(w, flat.grads.slice(begin, end), m, v, numbers, options_);
  });
}

}  // namespace dattn
