// Parameter: conversion and rebinding.
#include "core/parameter.h"

namespace dattn {

void Parameter::set_trainable(bool trainable) const {
  check(!trainable || role() != Role::frozen, "parameter {}: frozen ones cannot be trained", shape());
  state_->trainable = trainable;
}

void Parameter::rebind(Tensor value, Tensor grad) const {
  check(value.shape() == shape() && value.dtype() == state_->value.dtype(), "parameter {}: cannot be moved into {}",
        describe("value", state_->value), describe("buffer", value));
  value.copy_from(state_->value);
  state_->value = std::move(value);
  if (!state_->grad) return;
  grad.copy_from(state_->grad);
  state_->grad = std::move(grad);
}

void Parameter::to(Dtype dtype) const {
  state_->value = state_->value.to(dtype);
  if (state_->grad) state_->grad = state_->grad.to(dtype);
}

void Parameter::to(Device device) const {
  state_->value = state_->value.to(device);
  if (state_->grad) state_->grad = state_->grad.to(device);
}

void Parameter::zero_grad() const {
  if (state_->grad) state_->grad.fill(0);
}

}  // namespace dattn
