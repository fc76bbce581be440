// Muon: its checks, the numbers of an update, and the loops over a group and its matrices.
#include "optim/muon.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace dattn {

namespace {

Shape matrix_shape(const Shape& shape) { return {shape[0], shape[0] == 0 ? 0 : shape.elements() / shape[0]}; }

void check_steps(const NewtonSchulz& options) {
  check(options.steps >= 1 && options.steps < 100, "muon: Newton-Schulz steps expected in 1 .. 99, got {}",
        options.steps);
  check(options.eps > 0, "muon: eps expected above 0, got {}", options.eps);
}

// Calls f(begin, end, [count, O, I]) for the trained matrices of a group: neighbours of one shape, with nothing between
// them in the flat buffers, at once.
template <typename F>
void for_equal_matrices(const std::vector<FlatGroup::Slice>& slices, F&& f) {
  std::size_t next = 0;
  while (next < slices.size()) {
    const FlatGroup::Slice& first = slices[next++];
    if (!first.parameter.trainable() || first.begin == first.end) continue;
    const Shape matrix = matrix_shape(first.parameter.shape());
    std::int64_t end = first.end, count = 1;
    for (; next < slices.size(); ++next, ++count) {
      const FlatGroup::Slice& slice = slices[next];
      if (!slice.parameter.trainable() || slice.begin != end || matrix_shape(slice.parameter.shape()) != matrix) break;
      end = slice.end;
    }
    f(first.begin, end, Shape{count, matrix[0], matrix[1]});
  }
}

}  // namespace

double rate_factor(MuonScale scale, std::int64_t O, std::int64_t I) {
  const auto rows = static_cast<double>(O), columns = static_cast<double>(I);
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

Muon::Muon(std::vector<ParameterGroup> groups, MuonOptions options)
    : Optimizer("muon", std::move(groups), {"momentum"}, kNumbers<MuonNumbers>), options_(options) {
  check(options.momentum >= 0 && options.momentum < 1, "muon: momentum expected in [0, 1), got {}", options.momentum);
  check_steps(options.newton_schulz);
  for (const ParameterGroup& group : this->groups()) {
    for (const FlatGroup::Slice& slice : group.flat.slices) {
      check(slice.parameter.shape().rank() >= 2, "muon: {} {} is not a matrix\nhint: leave vectors to Sgd or AdamW",
            slice.name, slice.parameter.shape());
    }
  }
}

void Muon::write_numbers_of(const ParameterGroup& group, std::int64_t /*t*/, double* numbers) const {
  put_numbers(
      MuonNumbers{.lr = group.lr, .keep = 1 - group.lr * group.weight_decay, .gradient_scale = group.gradient_scale},
      numbers);
}

void Muon::update_group(std::size_t g, const Tensor& numbers) {
  const FlatGroup& flat = groups()[g].flat;
  Tensor u = Tensor::like(flat.values);
  for_trained_runs(flat, [&](std::int64_t begin, std::int64_t end) {
    Tensor m = moment(0, g).slice(begin, end), direction = u.slice(begin, end);
    muon_momentum(flat.grads.slice(begin, end), m, direction, numbers, options_);
  });
  for_equal_matrices(flat.slices, [&](std::int64_t begin, std::int64_t end, const Shape& matrices) {
    Tensor direction = u.slice(begin, end).view(matrices);  // direction [count, O, I]
    Tensor w = flat.values.slice(begin, end).view(matrices);
    muon_update(direction, w, numbers, options_);
  });
}

Tensor orthogonalise(const Tensor& x, NewtonSchulz options) {
  check(x.rank() >= 2, "orthogonalise: expected a matrix, got {}", x.shape());
  check_steps(options);
  const Shape matrix = matrix_shape(x.shape()), one{1, matrix[0], matrix[1]};
  Tensor u = x.clone().view(one), y = Tensor::zeros(one, x.dtype(), x.device());
  UpdateNumbers numbers(kNumbers<MuonNumbers>, x.device());
  numbers.set([](double* to) { put_numbers(MuonNumbers{.lr = -1, .keep = 0, .gradient_scale = 1}, to); });
  if (x.elements() > 0) {
    muon_update(u, y, numbers.tensor(), {.newton_schulz = options, .scale = MuonScale::none});
  }
  return y.view(x.shape());
}

}  // namespace dattn
