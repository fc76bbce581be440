// Dropout and DropPath: masks, modules, the node and the CPU kernel.
#include "layers/dropout.h"

#include "core/parallel.h"

namespace dattn {

namespace {

void check_probability(const char* layer, double p) {
  check(p >= 0 && p < 1, "{}: expected a probability 0 <= p < 1, got {}", layer, p);
}

// A lane has 24 bits: the purpose lies above them.
std::uint32_t draw_lane(Random& random) { return random.next_bits() >> 8; }

DropoutMask current_mask(double p, Purpose purpose, std::uint32_t lane) {
  const RandomState state = random_state();
  return DropoutMask(p, Random(state.seed, purpose, state.step, lane), state.step_on_device);
}

}  // namespace

DropoutMask::DropoutMask(double p, const Random& numbers, const std::int64_t* step)
    : random(numbers),
      threshold((check_probability("dropout", p), static_cast<std::uint32_t>(p * 0x1p32))),
      scale(1 / (1 - p)),
      step_on_device(step) {}

// --- the operation ---

namespace {

template <typename T>
void apply_elements(const T* x, const DropoutMask& mask, std::int64_t elements, T* y) {
  constexpr std::int64_t kChunk = 256;
  parallel_for(elements, kElementTile, [=](std::int64_t begin, std::int64_t end) {
    std::array<T, kChunk> factors;
    for (std::int64_t i = begin; i < end; i += kChunk) {
      const std::int64_t n = std::min(kChunk, end - i);
      mask.factors(static_cast<std::uint64_t>(i), n, factors.data());
      for (std::int64_t j = 0; j < n; ++j) y[i + j] = x[i + j] * factors[j];
    }
  });
}

template <typename T>
void apply_runs(const T* x, const DropoutMask& mask, std::int64_t runs, std::int64_t run, T* y) {
  parallel_for(runs, 1, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const auto factor = static_cast<T>(mask.factor(static_cast<std::uint64_t>(n)));
      for (std::int64_t i = n * run; i < (n + 1) * run; ++i) y[i] = x[i] * factor;
    }
  });
}

void dropout_apply_cpu(const Tensor& x, const DropoutMask& mask, std::int64_t run, Tensor& y) {
  dispatch_float("dropout", x.dtype(), [&]<typename T>() {
    if (run == 1) return apply_elements(x.data<T>(), mask, x.elements(), y.data<T>());
    apply_runs(x.data<T>(), mask, x.elements() / run, run, y.data<T>());
  });
}

struct DropoutNode : Node {
  DropoutMask mask;
  std::int64_t run;
  const char* name() const override { return "dropout"; }
  void backward(const Tensor& dy) override {
    Tensor dx = Tensor::like(dy);
    dropout_apply(dy, mask, run, dx);
    give(0, std::move(dx));
  }
};

}  // namespace

constinit Kernel<void(const Tensor&, const DropoutMask&, std::int64_t, Tensor&)> dropout_apply{"dropout_apply",
                                                                                               dropout_apply_cpu};

Tensor dropout(const Tensor& x, const DropoutMask& mask, std::int64_t run) {
  check(run > 0 && x.elements() % run == 0, "dropout: runs of {} elements do not divide {}", run, describe("x", x));
  Tensor y = Tensor::like(x);
  dropout_apply(x, mask, run, y);
  return record<DropoutNode>(y, {x}, {}, [&](DropoutNode& node) {
    node.mask = mask;
    node.run = run;
  });
}

// --- modules ---

Dropout::Dropout(double probability, Random& random) : p(probability), lane(draw_lane(random)) {
  check_probability("Dropout", p);
}

DropoutMask Dropout::mask() const { return training ? current_mask(p, Purpose::dropout, lane) : DropoutMask(); }

Tensor Dropout::operator()(const Tensor& x) const {
  const DropoutMask m = mask();
  return m.drops() ? dropout(x, m) : x;
}

DropPath::DropPath(double probability, Random& random) : p(probability), lane(draw_lane(random)) {
  check_probability("DropPath", p);
}

DropoutMask DropPath::mask() const { return training ? current_mask(p, Purpose::drop_path, lane) : DropoutMask(); }

Tensor DropPath::operator()(const Tensor& x) const {
  const DropoutMask m = mask();
  if (!m.drops() || x.elements() == 0) return x;
  check(x.rank() > 0, "DropPath: expected images [N, ...], got {}", describe("x", x));
  return dropout(x, m, x.elements() / x.size(0));
}

}  // namespace dattn
