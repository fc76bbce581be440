// Composition of modules: one after the other, and around a skip connection y = x + f(x).
#pragma once

#include <concepts>
#include <string>
#include <tuple>
#include <utility>

#include "core/ops.h"
#include "layers/module.h"

namespace dattn {

/// Applies its parts in order. A part is a module or any callable from tensor to tensor, such as a lambda around an
/// activation:
///   Sequential block{Conv2d(...), LayerNorm(...), [](const Tensor& x) { return gelu(x); }, Conv2d(...)};
/// Modules are named by their place as in PyTorch: "0", "1", "3" here, as the callable has a place but nothing to name.
template <std::invocable<const Tensor&>... Parts>
class Sequential {
 public:
  explicit Sequential(Parts... parts) : parts_(std::move(parts)...) {}

  Tensor operator()(const Tensor& x) { return apply(parts_, x); }
  Tensor operator()(const Tensor& x) const requires(std::invocable<const Parts&, const Tensor&>&&...) {
    return apply(parts_, x);
  }

  /// Part i, to reach into.
  template <std::size_t kIndex>
  auto& get() {
    return std::get<kIndex>(parts_);
  }

  void visit(Visitor& v) {
    int place = 0;
    std::apply([&](auto&... part) { (visit_part(v, place++, part), ...); }, parts_);
  }

 private:
  template <typename Tuple>
  static Tensor apply(Tuple& parts, Tensor x) {
    std::apply([&](auto&... part) { ((x = part(x)), ...); }, parts);
    return x;
  }
  template <typename Part>
  static void visit_part(Visitor& v, int place, Part& part) {
    if constexpr (Module<Part>) v(std::to_string(place), part);
  }

  std::tuple<Parts...> parts_;
};

/// y = x + f(x). The members of f keep the names they have in it.
template <std::invocable<const Tensor&> F>
struct Residual {
  F f;

  Tensor operator()(const Tensor& x) { return add(x, f(x)); }
  Tensor operator()(const Tensor& x) const requires std::invocable<const F&, const Tensor&> { return add(x, f(x)); }
  void visit(Visitor& v) requires Module<F> { f.visit(v); }
};

}  // namespace dattn
