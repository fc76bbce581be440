// EMA of the weights: pairs of a tensor and its average.
#include "optim/ema.h"

#include <algorithm>

namespace dattn {

Ema::Ema(const FlatParameters& parameters, const std::vector<NamedTensor>& buffers, EmaOptions options)
    : options_(options),
      groups_(parameters.groups()),
      steps_(Tensor::zeros({}, Dtype::int64)),
      numbers_(kNumbers<EmaNumbers>, parameters.values().device()) {
  check(options.decay >= 0 && options.decay <= 1, "ema: decay expected in [0, 1], got {}", options.decay);
  pairs_.push_back({parameters.values(), parameters.values().clone()});
  for (const NamedTensor& buffer : buffers) {
    if (buffer.tensor.dtype() != Dtype::float32 && buffer.tensor.dtype() != Dtype::float64) continue;
    buffers_.push_back(buffer);
    pairs_.push_back({buffer.tensor, buffer.tensor.clone()});
  }
}

void Ema::step() {
  numbers_.set([this](double* numbers) { write_numbers(steps() + 1, numbers); });
  update();
  count_steps(1);
}

void Ema::write_numbers(std::int64_t t, double* numbers) const {
  const auto before = static_cast<double>(t - 1);
  const double decay = options_.warm_up ? std::min(options_.decay, (1 + before) / (10 + before)) : options_.decay;
  put_numbers(EmaNumbers{.gain = 1 - decay}, numbers);
}

void Ema::update() {
  check(!swapped_, "ema: update while the averages are in the model");
  ema_update(numbers(), pairs_);
}

void Ema::swap() {
  swapped_ = !swapped_;
  for (EmaPair& pair : pairs_) swap_elements(pair.weight, pair.average);
}

WithAverages::~WithAverages() {
  try {
    ema_.swap();
  } catch (const Error&) {  // perhaps while another one is on its way
  }
}

std::vector<NamedTensor> Ema::state() const {
  check(!swapped_, "ema: state asked for while the averages are in the model");
  std::vector<NamedTensor> state{{"updates", steps_}};
  std::int64_t begin = 0;
  for (const FlatGroup& group : groups_) {
    const std::int64_t end = begin + group.values.elements();
    const Tensor averages = pairs_[0].average.slice(begin, end);
    for (const FlatGroup::Slice& slice : group.slices) state.push_back({slice.name, FlatGroup::part(averages, slice)});
    begin = end;
  }
  for (std::size_t b = 0; b < buffers_.size(); ++b) state.push_back({buffers_[b].name, pairs_[b + 1].average});
  return state;
}

}  // namespace dattn
