// Tensor: makers, views, copies and conversions.
#include "core/tensor.h"

#include "core/autograd.h"
#include "core/elements.h"

namespace dattn {

Tensor Tensor::empty(const Shape& shape, Dtype dtype, Device device) {
  Tensor x;
  x.shape_ = shape;
  x.elements_ = shape.elements();
  x.dtype_ = dtype;
  check(x.elements_ <= std::int64_t{1} << 46, "tensor {}: too many elements for any machine", shape);
  x.storage_ = make_pooled<Storage>(x.bytes(), device);
  return x;
}

Tensor Tensor::zeros(const Shape& shape, Dtype dtype, Device device) {
  Tensor x = empty(shape, dtype, device);
  x.fill(0);
  return x;
}

Tensor Tensor::full(const Shape& shape, double value, Dtype dtype) {
  Tensor x = empty(shape, dtype);
  x.fill(value);
  return x;
}

double Tensor::item() const {
  check(elements_ == 1, "item: expected a tensor of one element, got {}", shape_);
  return to(Device::cpu).at(0);
}

double Tensor::at(std::int64_t i) const {
  check(i >= 0 && i < elements_, "tensor {}: no element {}", shape_, i);
  check(device() == Device::cpu, "tensor {}: elements are on {}; copy them to the cpu first", shape_, name(device()));
  return dispatch_any(dtype_, [&]<typename T>() { return static_cast<double>(data<T>()[i]); });
}

Tensor Tensor::view(const Shape& shape) const {
  check(shape.elements() == elements_, "view: {} has {} elements, {} would have {}", shape_, elements_, shape,
        shape.elements());
  Tensor x = detach();
  x.shape_ = shape;
  return x;
}

Tensor Tensor::slice(std::int64_t begin, std::int64_t end) const {
  check(rank() >= 1 && 0 <= begin && begin <= end && end <= size(0), "slice: no rows [{}, {}) in {}", begin, end,
        shape_);
  Tensor x = detach();
  const std::int64_t row = size(0) == 0 ? 0 : elements_ / size(0);
  x.offset_ += static_cast<std::size_t>(begin * row) * size_of(dtype_);
  x.shape_[0] = end - begin;
  x.elements_ = (end - begin) * row;
  return x;
}

Tensor Tensor::detach() const {
  Tensor x = *this;
  x.slot_.reset();
  return x;
}

Tensor Tensor::clone() const {
  Tensor x = like(*this);
  x.copy_from(*this);
  return x;
}

Tensor Tensor::to(Dtype dtype) const {
  if (dtype == dtype_) return *this;
  Tensor x = empty(shape_, dtype, device());
  x.copy_from(*this);
  return x;
}

Tensor Tensor::to(Device device) const {
  if (device == this->device()) return *this;
  Tensor x = empty(shape_, dtype_, device);
  x.copy_from(*this);
  return x;
}

void Tensor::fill(double value) { fill_elements(*this, value); }

void Tensor::copy_from(const Tensor& other) {
  check(other.elements_ == elements_, "copy: {} cannot be copied into {}", other.shape_, shape_);
  if (other.dtype_ == dtype_) return copy_bytes(raw(), device(), other.raw(), other.device(), bytes());
  if (other.device() != device()) return copy_from(other.to(dtype_));
  convert_elements(other, *this);
}

Tensor& Tensor::track() {
  check(dtype_ == Dtype::float32 || dtype_ == Dtype::float64 || dtype_ == Dtype::bfloat16,
        "track: gradients need a floating type, {} is {}", shape_, name(dtype_));
  slot_ = make_leaf_slot();
  return *this;
}

Tensor Tensor::grad() const { return slot_ ? slot_->grad : Tensor(); }

}  // namespace dattn

auto fmt::formatter<dattn::Described>::format(const dattn::Described& d, fmt::format_context& context) const
    -> fmt::format_context::iterator {
  if (!d.tensor) return fmt::format_to(context.out(), "{} undefined", d.label);
  return fmt::format_to(context.out(), "{} {} {}", d.label, d.tensor.shape(), dattn::name(d.tensor.dtype()));
}
