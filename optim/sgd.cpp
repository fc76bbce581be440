// SGD: its checks and the loop over groups.
#include "optim/sgd.h"

#include <utility>

namespace dattn {

Sgd::Sgd(std::vector<ParameterGroup> groups, SgdOptions options)
    : Optimizer("sgd", std::move(groups), std::vector<const char*>(options.momentum == 0 ? 0 : 1, "momentum")),
      options_(options) {
  check(options.momentum >= 0 && options.momentum < 1, "sgd: momentum expected in [0, 1), got {}", options.momentum);
  check(!options.nesterov || options.momentum > 0, "sgd: nesterov expects a momentum above 0");
}

void Sgd::update(std::size_t g) {
  const ParameterGroup& group = groups()[g];
  const SgdStep step{group.lr, options_.momentum, group.weight_decay, group.gradient_scale, options_.nesterov};
  for_trained_runs(group.flat, [&](std::int64_t begin, std::int64_t end) {
    Tensor w = group.flat.values.slice(begin, end);
    Tensor m = options_.momentum == 0 ? Tensor() : moment(0, g).slice(begin, end);
    sgd_update(w, group.flat.grads.slice(begin, end), m, step);
  });
}

}  // namespace dattn
