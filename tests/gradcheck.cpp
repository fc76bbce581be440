// Central differences of fourth order: (8 (f(+h) - f(-h)) - (f(+2h) - f(-2h))) / 12h, whose error is of order h^4 +
// 1e-16 / h.
#include "gradcheck.h"

#include <cmath>

#include "core/autograd.h"

namespace dattn::test {

namespace {

constexpr double kRelative = 1e-6, kAbsolute = 1e-8, kStep = 2e-4;

bool differentiable(const Tensor& x) {
  return x.dtype() == Dtype::float32 || x.dtype() == Dtype::float64 || x.dtype() == Dtype::bfloat16;
}

void convert_instance(OpInstance& instance, Dtype dtype) {
  for (auto& input : instance.inputs) {
    if (differentiable(input.value)) input.value = input.value.to(input.exact ? exact_type(dtype) : dtype);
  }
  if (instance.convert) return instance.convert(exact_type(dtype));
  for (auto& [name, p] : instance.parameters) p.to(exact_type(dtype));
}

std::vector<Tensor> values(const OpInstance& instance) {
  std::vector<Tensor> in;
  for (const auto& input : instance.inputs) in.push_back(input.value.detach());
  return in;
}

// <f(x), r> summed in long double, so that the differences lose nothing.
double objective(const OpInstance& instance, const Tensor& r) {
  NoGrad no_grad;
  const Tensor y = instance.call(values(instance));
  long double sum = 0;
  for (std::int64_t i = 0; i < y.elements(); ++i)
    sum += static_cast<long double>(y.data<double>()[i]) * r.data<double>()[i];
  return static_cast<double>(sum);
}

double numeric_gradient(const OpInstance& instance, const Tensor& r, double& element) {
  const double value = element;
  auto at = [&](double shift) {
    element = value + shift;
    return objective(instance, r);
  };
  const double near = at(kStep) - at(-kStep), far = at(2 * kStep) - at(-2 * kStep);
  element = value;
  return (8 * near - far) / (12 * kStep);
}

std::string index_text(const Shape& shape, std::int64_t flat) {
  std::string text;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    text = fmt::format("{}{}{}", flat % shape[i], text.empty() ? "" : ",", text);
    flat /= shape[i];
  }
  return text;
}

std::optional<std::string> check_tensor(const OpCase& op_case, const OpInstance& instance, const Tensor& r,
                                        const std::string& name, Tensor value, const Tensor& gradient) {
  if (!gradient) return fmt::format("{}: d({}) is missing", op_case.name, name);
  if (gradient.shape() != value.shape()) {
    return fmt::format("{}: d({}) has shape {}, expected {}", op_case.name, name, gradient.shape(), value.shape());
  }
  for (std::int64_t i = 0; i < value.elements(); ++i) {
    const double analytic = gradient.at(i), numeric = numeric_gradient(instance, r, value.data<double>()[i]);
    const double error = std::abs(analytic - numeric), size = std::max(std::abs(analytic), std::abs(numeric));
    if (!(error <= kRelative * size + kAbsolute)) {
      return fmt::format("{}: d({})[{}] analytic {:.8g} numeric {:.8g} rel {:.1e} > {:.0e}", op_case.name, name,
                         index_text(value.shape(), i), analytic, numeric, error / size, kRelative);
    }
  }
  return std::nullopt;
}

}  // namespace

Tensor output_gradient(const Tensor& y) {
  return normal(y.shape(), 999).to(Dtype::bfloat16).to(y.dtype()).to(y.device());
}

OpResults run(OpInstance& instance, bool keep_parameter_gradients) {
  if (!keep_parameter_gradients) {
    for (auto& [name, p] : instance.parameters) p.zero_grad();
  }
  auto in = values(instance);
  for (auto& x : in) {
    if (differentiable(x)) x.track();
  }
  OpResults results;
  results.y = instance.call(in);
  backward(results.y, output_gradient(results.y));
  results.y = results.y.detach().to(Device::cpu);
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (differentiable(in[i])) results.gradients.push_back({instance.inputs[i].name, in[i].grad().to(Device::cpu)});
  }
  results.first_parameter = results.gradients.size();
  for (auto& [name, p] : instance.parameters) {
    if (p.trainable()) results.gradients.push_back({name, p.grad().clone().to(Device::cpu)});
  }
  return results;
}

void to_float32(OpInstance& instance) { convert_instance(instance, Dtype::float32); }

void round_to_float32(OpInstance& instance) {
  convert_instance(instance, Dtype::float32);
  convert_instance(instance, Dtype::float64);
}

void move_to(OpInstance& instance, Device device) {
  for (auto& input : instance.inputs) input.value = input.value.to(device);
  if (instance.move) return instance.move(device);
  for (auto& [name, p] : instance.parameters) p.to(device);
}

void to_bfloat16(OpInstance& instance) { convert_instance(instance, Dtype::bfloat16); }

void round_to_bfloat16(OpInstance& instance) {
  convert_instance(instance, Dtype::bfloat16);
  convert_instance(instance, Dtype::float64);
}

std::optional<std::string> gradcheck(const OpCase& op_case) {
  OpInstance instance = op_case.make();
  const OpResults analytic = run(instance);
  const Tensor r = output_gradient(analytic.y);
  std::size_t g = 0;
  for (const auto& input : instance.inputs) {
    if (!differentiable(input.value)) continue;
    if (auto failure = check_tensor(op_case, instance, r, input.name, input.value, analytic.gradients[g++].tensor))
      return failure;
  }
  for (const auto& [name, p] : instance.parameters) {
    if (!p.trainable()) continue;
    if (auto failure = check_tensor(op_case, instance, r, name, p.value(), analytic.gradients[g++].tensor))
      return failure;
  }
  return std::nullopt;
}

}  // namespace dattn::test
