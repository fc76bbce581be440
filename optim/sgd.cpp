// SGD: its checks, the numbers of an update, and the loop over a group.
#include "optim/sgd.h"

#include <utility>

namespace dattn {

Sgd::Sgd(std::vector<ParameterGroup> groups, SgdOptions options)
    : Optimizer("sgd", std::move(groups), std::vector<const char*>(options.momentum == 0 ? 0 : 1, "momentum"),
                kNumbers<SgdNumbers>),
      options_(options) {
  check(options.momentum >= 0 && options.momentum < 1, "sgd: momentum expected in [0, 1), got {}", options.momentum);
  check(!options.nesterov || options.momentum > 0, "sgd: nesterov expects a momentum above 0");
}

void Sgd::write_numbers_of(const ParameterGroup& group, std::int64_t /*t*/, double* numbers) const {
  put_numbers(SgdNumbers{group.lr, group.weight_decay, group.gradient_scale}, numbers);
}

void Sgd::update_group(std::size_t g, const Tensor& numbers) {
  const FlatGroup& flat = groups()[g].flat;
  for_trained_runs(flat, [&](std::int64_t begin, std::int64_t end) {
    Tensor w = flat.values.slice(begin, end);
    Tensor m = options_.momentum == 0 ? Tensor() : moment(0, g).slice(begin, end);
    sgd_update(w, flat.grads.slice(begin, end), m, numbers, options_);
  });
}

}  // namespace dattn
