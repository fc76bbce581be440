// EMA of the weights: pairs of a tensor and its average.
#include "optim/ema.h"

#include <algorithm>

namespace dattn {

Ema::Ema(const FlatParameters& parameters, const std::vector<NamedTensor>& buffers, EmaOptions options)
    : options_(options),
      groups_(parameters.groups()),
      updates_(Tensor::zeros({}, Dtype::int64)),
      numbers_(kNumbers<EmaNumbers>, parameters.values().device()) {
  check(options.decay >= 0 && options.decay <= 1, "ema: decay expected in [0, 1], got {}", options.decay);
  for (const FlatGroup& group : groups_) pairs_.push_back({group.values, group.values.clone()});
  for (const NamedTensor& buffer : buffers) {
    if (buffer.tensor.dtype() != Dtype::float32 && buffer.tensor.dtype() != Dtype::float64) continue;
    buffers_.push_back(buffer);
    pairs_.push_back({buffer.tensor, buffer.tensor.clone()});
  }
}

void Ema::update() {
  numbers_.set([this](double* numbers) { write_numbers(updates(), numbers); });
  apply();
  count_updates(1);
}

void Ema::write_numbers(std::int64_t n, double* numbers) const {
  const auto before = static_cast<double>(n);
  const double decay = options_.warm_up ? std::min(options_.decay, (1 + before) / (10 + before)) : options_.decay;
  put_numbers(EmaNumbers{.gain = 1 - decay}, numbers);
}

void Ema::apply() {
  check(!swapped_, "ema: update while the averages are in the model");
  for (Pair& pair : pairs_) ema_update(pair.weight, pair.average, numbers());
}

void Ema::swap() {
  for (Pair& pair : pairs_) swap_elements(pair.weight, pair.average);
  swapped_ = !swapped_;
}

std::vector<NamedTensor> Ema::state() const {
  check(!swapped_, "ema: state asked for while the averages are in the model");
  std::vector<NamedTensor> state{{"updates", updates_}};
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    for (const FlatGroup::Slice& slice : groups_[g].slices) {
      state.push_back({slice.name, FlatGroup::part(pairs_[g].average, slice)});
    }
  }
  for (std::size_t b = 0; b < buffers_.size(); ++b) {
    state.push_back({buffers_[b].name, pairs_[groups_.size() + b].average});
  }
  return state;
}

}  // namespace dattn
