// Modules: plain values with one visit() that names their members; everything else about modules is a visitor.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/parameter.h"
#include "core/tensor.h"

namespace dattn {

class Visitor;

/// A module is any type with `void visit(Visitor& v)` that calls `v("name", member)` for its parameters, buffers
/// (tensors that are saved but not trained) and submodules, and `v.mode(training)` for its training flag where it has
/// one.
template <typename M>
concept Module = requires(M& m, Visitor& v) {
  m.visit(v);
};

/// Walks a module. Names are paths, `group1.conv1.weight`, the same as PyTorch's for the same network.
class Visitor {
 public:
  virtual ~Visitor() = default;

  void operator()(std::string_view name, Parameter& p) {
    if (p) parameter(path(name), p);
  }
  void operator()(std::string_view name, Tensor& b) {
    if (b) buffer(path(name), b);
  }
  template <Module M>
  void operator()(std::string_view name, M& m) {
    const std::size_t length = prefix_.size();
    prefix_ = path(name) + ".";
    m.visit(*this);
    prefix_.resize(length);
  }
  template <Module M>
  void operator()(std::string_view name, std::optional<M>& m) {
    if (m) (*this)(name, *m);
  }
  template <Module M>
  void operator()(std::string_view name, std::vector<M>& ms) {
    for (std::size_t i = 0; i < ms.size(); ++i) (*this)(fmt::format("{}.{}", name, i), ms[i]);
  }

  virtual void parameter(const std::string& /*path*/, Parameter&) {}
  virtual void buffer(const std::string& /*path*/, Tensor&) {}
  virtual void mode(bool& /*training*/) {}

 private:
  std::string path(std::string_view name) const { return prefix_ + std::string(name); }
  std::string prefix_;
};

namespace detail {
struct Collect : Visitor {
  std::vector<NamedParameter> parameters;
  std::vector<NamedTensor> buffers;
  void parameter(const std::string& path, Parameter& p) override { parameters.push_back({path, p}); }
  void buffer(const std::string& path, Tensor& b) override { buffers.push_back({path, b}); }
};
struct SetMode : Visitor {
  bool training;
  explicit SetMode(bool to) : training(to) {}
  void mode(bool& flag) override { flag = training; }
};
struct Convert : Visitor {
  Dtype dtype;
  explicit Convert(Dtype to) : dtype(to) {}
  void parameter(const std::string&, Parameter& p) override { p.to(dtype); }
  void buffer(const std::string&, Tensor& b) override {
    if (b.dtype() == Dtype::float32 || b.dtype() == Dtype::float64) b = b.to(dtype);
  }
};
struct Move : Visitor {
  Device device;
  explicit Move(Device to) : device(to) {}
  void parameter(const std::string&, Parameter& p) override { p.to(device); }
  void buffer(const std::string&, Tensor& b) override { b = b.to(device); }
};
}  // namespace detail

/// All parameters, in visiting order.
template <Module M>
std::vector<NamedParameter> parameters(M& module) {
  detail::Collect collect;
  module.visit(collect);
  return std::move(collect.parameters);
}

/// All buffers, in visiting order.
template <Module M>
std::vector<NamedTensor> buffers(M& module) {
  detail::Collect collect;
  module.visit(collect);
  return std::move(collect.buffers);
}

/// Training or evaluation behaviour of BatchNorm and dropout. Recording of gradients is another matter: NoGrad.
template <Module M>
void set_training(M& module, bool training) {
  detail::SetMode set(training);
  module.visit(set);
}

/// Converts all parameters and floating buffers (gradient checks run in float64).
template <Module M>
void convert(M& module, Dtype dtype) {
  detail::Convert to(dtype);
  module.visit(to);
}

/// Moves all parameters and buffers to a device.
template <Module M>
void move_to(M& module, Device device) {
  detail::Move to(device);
  module.visit(to);
}

template <Module M>
void zero_grad(M& module) {
  for (auto& [name, p] : parameters(module)) p.zero_grad();
}

/// Number of elements of all parameters, frozen ones included.
template <Module M>
std::int64_t parameter_count(M& module) {
  std::int64_t count = 0;
  for (auto& [name, p] : parameters(module)) count += p.value().elements();
  return count;
}

/// A table of every parameter and buffer: path, shape, role, elements; and the total.
std::string summary(const std::vector<NamedParameter>& parameters, const std::vector<NamedTensor>& buffers);

}  // namespace dattn
