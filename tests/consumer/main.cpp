// Adds numbers with an installed dattn, and takes the gradient.
#include <core/ops.h>

int main() {
  const dattn::Tensor x = dattn::Tensor::full({2, 3}, 1.5).track();
  const dattn::Tensor y = dattn::add(x, x);
  dattn::backward(y, dattn::Tensor::full({2, 3}, 1));
  fmt::print("{} {} {}\n", y.shape(), y.at(0), x.grad().at(0));
}
