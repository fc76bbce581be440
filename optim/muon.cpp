// Muon: its checks and the loops over groups and matrices.
#include "optim/muon.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace dattn {

namespace {

Shape matrix_shape(const Shape& shape) { return {shape[0], shape[0] == 0 ? 0 : shape.elements() / shape[0]}; }

double rate_factor(MuonScale scale, const Shape& matrix) {
  const auto rows = static_cast<double>(matrix[0]), columns = static_cast<double>(matrix[1]);
  switch (scale) {
    case MuonScale::none:
      return 1;
    case MuonScale::original:
      return std::sqrt(std::max(1.0, rows / columns));
    case MuonScale::match_rms_adamw:
      return 0.2 * std::sqrt(std::max(rows, columns));
  }
  return 1;
}

void check_steps(const NewtonSchulz& options) {
  check(options.steps >= 1 && options.steps < 100, "muon: Newton-Schulz steps expected in 1 .. 99, got {}",
        options.steps);
  check(options.eps > 0, "muon: eps expected above 0, got {}", options.eps);
}

}  // namespace

Muon::Muon(std::vector<ParameterGroup> groups, MuonOptions options)
    : Optimizer("muon", std::move(groups), {"momentum"}), options_(options) {
  check(options.momentum >= 0 && options.momentum < 1, "muon: momentum expected in [0, 1), got {}", options.momentum);
  check_steps(options.newton_schulz);
  for (const ParameterGroup& group : this->groups()) {
    for (const FlatGroup::Slice& slice : group.flat.slices) {
      check(slice.parameter.shape().rank() >= 2, "muon: {} {} is not a matrix\nhint: leave vectors to Sgd or AdamW",
            slice.name, slice.parameter.shape());
    }
  }
}

void Muon::update(std::size_t g) {
  const ParameterGroup& group = groups()[g];
  Tensor u = Tensor::like(group.flat.values);
  for_trained_runs(group.flat, [&](std::int64_t begin, std::int64_t end) {
    Tensor m = moment(0, g).slice(begin, end), direction = u.slice(begin, end);
    muon_momentum(group.flat.grads.slice(begin, end), m, direction,
                  {options_.momentum, group.gradient_scale, options_.nesterov});
  });
  for (const FlatGroup::Slice& slice : group.flat.slices) {
    if (!slice.parameter.trainable() || slice.begin == slice.end) continue;
    const Shape matrix = matrix_shape(slice.parameter.shape());
    Tensor direction = u.slice(slice.begin, slice.end).view(matrix);  // direction [O, I]
    Tensor w = group.flat.values.slice(slice.begin, slice.end).view(matrix);
    muon_update(direction, w,
                {.lr = group.lr * rate_factor(options_.scale, matrix),
                 .keep = 1 - group.lr * group.weight_decay,
                 .normalise_weights = options_.normalise_weights,
                 .newton_schulz = options_.newton_schulz});
  }
}

Tensor orthogonalise(const Tensor& x, NewtonSchulz options) {
  check(x.rank() >= 2, "orthogonalise: expected a matrix, got {}", x.shape());
  check_steps(options);
  Tensor u = x.clone().view(matrix_shape(x.shape())), y = Tensor::like(u);  // both [O, I]
  if (x.elements() > 0) muon_update(u, y, {.lr = -1, .keep = 0, .normalise_weights = false, .newton_schulz = options});
  return y.view(x.shape());
}

}  // namespace dattn
