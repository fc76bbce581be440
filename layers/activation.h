// Activations, element by element, and softmax over the last dimension.
//
//   relu       y = max(x, 0)                                        dy/dx = [x > 0]
//   gelu erf   y = x P(x), P(x) = (1 + erf(x / sqrt 2)) / 2         dy/dx = P(x) + x exp(-x^2 / 2) / sqrt(2 pi)
//   gelu tanh  y = x s(2u), u = sqrt(2 / pi) (x + 0.044715 x^3)     dy/dx = s + 2 x s (1 - s) du/dx
//   silu       y = x s(x)                                           dy/dx = s (1 + x (1 - s))
//   sigmoid    y = s(x) = 1 / (1 + exp(-x))                         dy/dx = y (1 - y)
//   tanh       y = tanh x                                           dy/dx = 1 - y^2
//   softmax    y_c = exp(x_c) / sum_k exp(x_k)                      dx_c = y_c (dy_c - sum_k dy_k y_k)
//
// Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv 1606.08415 (s(2u) = (1 + tanh u) / 2). NaN stays NaN;
// infinities give the limit, so gelu(-inf) is 0.
#pragma once

#include "core/autograd.h"
#include "core/kernel.h"

namespace dattn {

enum class GeluKind : unsigned char { erf, tanh };

// Any shape, float32, float64 or bfloat16; y has x's shape and type.
Tensor relu(const Tensor& x);
Tensor gelu(const Tensor& x, GeluKind kind = GeluKind::erf);
Tensor silu(const Tensor& x);
Tensor sigmoid(const Tensor& x);
Tensor tanh_(const Tensor& x);
/// Over the last dimension; rank at least 1. The largest x of a row is taken off first, so nothing overflows.
Tensor softmax(const Tensor& x);

enum class Activation : unsigned char { relu, gelu_erf, gelu_tanh, silu, sigmoid, tanh };

constexpr const char* name(Activation a) {
  constexpr const char* kNames[] = {"relu", "gelu", "gelu", "silu", "sigmoid", "tanh"};
  return kNames[static_cast<int>(a)];
}

/// Whether backward works from the output (relu, sigmoid, tanh) or from the input.
constexpr bool saves_output(Activation a) {
  return a == Activation::relu || a == Activation::sigmoid || a == Activation::tanh;
}

extern Kernel<void(Activation, const Tensor& x, Tensor& y)> activation_forward;
/// `saved` is y or x: see saves_output().
extern Kernel<void(Activation, const Tensor& dy, const Tensor& saved, Tensor& dx)> activation_backward;
extern Kernel<void(const Tensor& x, Tensor& y)> softmax_forward;
extern Kernel<void(const Tensor& dy, const Tensor& y, Tensor& dx)> softmax_backward;

}  // namespace dattn
