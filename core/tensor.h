// The tensor: a shared, dense, row-major, contiguous array, and its place in the gradient graph.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/dtype.h"
#include "core/memory.h"
#include "core/shape.h"

namespace dattn {

struct GradSlot;

/// A handle: copies share the elements. Images are [N,H,W,C], filters [O,Kh,Kw,I]; there are no strides, so a view is
/// an offset and a shape. Tensors that operations make while gradients are recorded carry a slot in the graph
/// (core/autograd.h).
class Tensor {
 public:
  Tensor() = default;  ///< undefined: no elements, no storage

  // Makers.
  static Tensor empty(const Shape& shape, Dtype dtype = Dtype::float32,
                      Device device = Device::cpu);  ///< contents undefined
  static Tensor zeros(const Shape& shape, Dtype dtype = Dtype::float32, Device device = Device::cpu);
  static Tensor full(const Shape& shape, double value, Dtype dtype = Dtype::float32);
  static Tensor like(const Tensor& x) {
    return empty(x.shape(), x.dtype(), x.device());
  }  ///< same shape, type and device, undefined contents
  template <typename T>
  static Tensor from(const Shape& shape, std::span<const T> values);
  template <typename T>
  static Tensor from(const Shape& shape, const std::vector<T>& values) {
    return from(shape, std::span<const T>(values));
  }
  template <typename T>
  static Tensor scalar(T value) {
    return from(Shape{}, std::span<const T>(&value, 1));
  }

  // What it is.
  bool defined() const { return storage_ != nullptr; }
  explicit operator bool() const { return defined(); }
  const Shape& shape() const { return shape_; }
  std::int64_t size(int i) const { return shape_[i]; }
  int rank() const { return shape_.rank(); }
  std::int64_t elements() const { return elements_; }
  std::size_t bytes() const { return static_cast<std::size_t>(elements_) * size_of(dtype_); }
  Dtype dtype() const { return dtype_; }
  Device device() const { return storage_ ? storage_->device() : Device::cpu; }

  // Elements. T must be the element type; Error otherwise. A const handle still shares mutable elements with its
  // copies, so constness is a promise of the reader.
  template <typename T>
  T* data() {
    expect(dtype_of<T>);
    return reinterpret_cast<T*>(raw());
  }
  template <typename T>
  const T* data() const {
    expect(dtype_of<T>);
    return reinterpret_cast<const T*>(raw());
  }
  template <typename T>
  std::span<const T> values() const {
    return {data<T>(), static_cast<std::size_t>(elements_)};
  }
  std::byte* raw() const { return storage_ ? storage_->data() + offset_ : nullptr; }
  /// The value of a one-element tensor, from any device.
  double item() const;
  /// Element i of the flat order as a double; CPU only. For tests and printing.
  double at(std::int64_t i) const;

  // Views and copies. None of them is seen by autograd: core/ops.h has `reshape` for that.
  /// The same elements under another shape; Error where that has another number of them.
  Tensor view(const Shape& shape) const;
  /// Rows [begin, end) of the first dimension; Error where they are not all there.
  Tensor slice(std::int64_t begin, std::int64_t end) const;
  Tensor detach() const;           ///< the same elements without the graph
  Tensor clone() const;            ///< a copy of the elements
  Tensor to(Dtype dtype) const;    ///< converted copy; the same tensor where the type is the same already
  Tensor to(Device device) const;  ///< copy on another device; the same tensor where it is there already
  void fill(double value);
  /// Converts type and device; Error where the numbers of elements differ.
  void copy_from(const Tensor& other);

  // Gradient graph.
  /// Makes this tensor a leaf: backward() leaves its gradient in grad().
  Tensor& track();
  bool needs_grad() const { return slot_ != nullptr; }
  /// Gradient of a leaf after backward(); undefined before.
  Tensor grad() const;
  const std::shared_ptr<GradSlot>& slot() const { return slot_; }
  void set_slot(std::shared_ptr<GradSlot> slot) { slot_ = std::move(slot); }

  /// True where no other tensor shares the storage.
  bool unique() const { return storage_.use_count() == 1; }

 private:
  void expect(Dtype dtype) const {
    check(dtype == dtype_, "tensor {}: elements are {}, asked for as {}", shape_, name(dtype_), name(dtype));
  }

  std::shared_ptr<Storage> storage_;
  std::shared_ptr<GradSlot> slot_;
  std::size_t offset_ = 0;  // bytes
  Shape shape_;
  std::int64_t elements_ = 0;
  Dtype dtype_ = Dtype::float32;
};

/// A tensor with the name that files hold it under.
struct NamedTensor {
  std::string name;
  Tensor tensor;
};

/// Reads "x [8,32,32,3] float32" in an error message, and costs nothing where there is none.
struct Described {
  const char* label;
  const Tensor& tensor;
};
inline Described describe(const char* label, const Tensor& x) { return {label, x}; }

template <typename T>
Tensor Tensor::from(const Shape& shape, std::span<const T> values) {
  check(static_cast<std::int64_t>(values.size()) == shape.elements(), "tensor {}: expected {} values, got {}", shape,
        shape.elements(), values.size());
  Tensor x = empty(shape, dtype_of<T>);
  copy_bytes(x.raw(), Device::cpu, values.data(), Device::cpu, x.bytes());
  return x;
}

}  // namespace dattn

template <>
struct fmt::formatter<dattn::Described> : fmt::formatter<std::string> {
  auto format(const dattn::Described& d, fmt::format_context& context) const -> fmt::format_context::iterator;
};
