// A parameter: a trained tensor with its gradient, and the role by which optimizers group it.
#pragma once

#include <memory>
#include <string>

#include "core/tensor.h"

namespace dattn {

/// What a parameter is to an optimizer: `matrix` mixes channels (linear weights, filters), `vector` shifts or scales
/// them (biases, norms), `table` is looked up (position tables), `frozen` is saved but never trained.
enum class Role : unsigned char { matrix, vector, table, frozen };

constexpr const char* name(Role role) {
  constexpr const char* kNames[] = {"matrix", "vector", "table", "frozen"};
  return kNames[static_cast<int>(role)];
}

/// A handle: copies share value and gradient. A parameter of rank 4 is a filter bank [O,Kh,Kw,I]; files hold it as
/// [O,I,Kh,Kw].
class Parameter {
 public:
  Parameter() = default;  ///< undefined: an absent bias, for instance
  /// Takes over the tensor as the value; the gradient starts at zero.
  Parameter(Tensor value, Role role)
      : state_(std::make_shared<State>(State{std::move(value), {}, role, role != Role::frozen})) {
    if (state_->trainable)
      state_->grad = Tensor::zeros(this->value().shape(), this->value().dtype(), this->value().device());
  }

  bool defined() const { return state_ != nullptr; }
  explicit operator bool() const { return defined(); }
  Tensor& value() const { return state_->value; }
  /// Gradient, added to by backward(); the same shape as the value. Undefined for a frozen parameter.
  Tensor& grad() const { return state_->grad; }
  Role role() const { return state_->role; }
  const Shape& shape() const { return state_->value.shape(); }

  /// Whether backward() adds to the gradient. A frozen parameter cannot be made trainable.
  bool trainable() const { return state_ && state_->trainable; }
  void set_trainable(bool trainable) const;

  /// Moves value and gradient into the given tensors of the same shape (views of flat buffers), keeping the contents.
  void rebind(Tensor value, Tensor grad) const;
  /// Converts value and gradient.
  void to(Dtype dtype) const;
  /// Moves value and gradient to a device.
  void to(Device device) const;
  void zero_grad() const;

  bool operator==(const Parameter& other) const { return state_ == other.state_; }

 private:
  struct State {
    Tensor value, grad;
    Role role;
    bool trainable;
  };
  std::shared_ptr<State> state_;
};

/// A parameter with its path in the model, `group1.conv1.weight`.
struct NamedParameter {
  std::string name;
  Parameter parameter;
};

}  // namespace dattn
