// Learns to tell points inside a circle from points outside with a network of two layers: the library in forty lines.
#include "core/output.h"
#include "layers/activation.h"
#include "layers/linear.h"
#include "layers/loss.h"
#include "optim/adam.h"

using namespace dattn;

struct Network {
  Linear hidden, out;

  explicit Network(Random& random) : hidden(2, 32, true, random), out(32, 2, true, random) {}
  Tensor operator()(const Tensor& x) const { return out(relu(hidden(x))); }
  void visit(Visitor& v) {
    v("hidden", hidden);
    v("out", out);
  }
};

static int learn() {
  Random random(1, Purpose::init);
  constexpr std::int64_t kPoints = 256;
  Tensor x = Tensor::empty({kPoints, 2}), target = Tensor::empty({kPoints}, Dtype::int64);
  for (std::int64_t i = 0; i < kPoints; ++i) {
    float* point = x.data<float>() + 2 * i;
    for (int axis : {0, 1}) point[axis] = 2 * random.next_uniform() - 1;
    target.data<std::int64_t>()[i] = point[0] * point[0] + point[1] * point[1] < 0.6f;
  }

  Network network(random);
  print_output("{}", summary(parameters(network), buffers(network)));
  FlatParameters flat({parameters(network)});
  AdamW adamw({{flat.group(0), 0.02}});
  for (int step = 0; step <= 300; ++step) {
    flat.zero_grad();
    const Tensor loss = cross_entropy(network(x), target);
    backward(loss);
    adamw.step();
    if (step % 50 == 0) print_output("step {:3}  loss {:.4f}\n", step, loss.item());
  }
  return 0;
}

int main() { return run_program("overfit", learn); }
