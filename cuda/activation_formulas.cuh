// Activations of a float: value(x), and slope(saved) = dy/dx from x or y, whichever saves_output() names. The device's
// layers/activation_formulas-inl.h: NaN stays NaN, infinities give the limit.
#pragma once

#include "cuda/common.cuh"
#include "layers/activation.h"

namespace dattn::cuda {

// A factor that tends to 0 meets a finite x, so that their product is 0 at infinity. NaN comes back through the other
// factor.
__device__ __forceinline__ float finite_below(float x) { return fmaxf(x, -3.402823466e38f); }
// Slopes are 0 or 1 from here on.
__device__ __forceinline__ float where_sloped(float x) { return fminf(fmaxf(x, -1000.0f), 1000.0f); }
__device__ __forceinline__ float sigmoid_of(float x) { return 1.0f / (1.0f + expf(-x)); }
/// The probability that a standard normal number is below x.
__device__ __forceinline__ float normal_cdf(float x) { return 0.5f * erfcf(x * -0.70710678118654752f); }

struct ReluFormula {
  __device__ static float value(float x) { return x < 0 ? 0.0f : x; }
  __device__ static float slope(float y) { return y > 0 ? 1.0f : 0.0f; }
};

struct GeluErfFormula {
  __device__ static float value(float x) { return finite_below(x) * normal_cdf(x); }
  __device__ static float slope(float x) {
    const float z = where_sloped(x);
    return normal_cdf(x) + z * 0.39894228040143268f * expf(-0.5f * z * z);
  }
};

struct GeluTanhFormula {
  static constexpr float kScale = 1.5957691216057308f, kCubic = 0.044715f;  // 2u = kScale (x + kCubic x^3)
  __device__ static float twice_u(float x) { return x * (kScale + kScale * kCubic * x * x); }
  __device__ static float value(float x) { return finite_below(x) * sigmoid_of(twice_u(x)); }
  __device__ static float slope(float x) {
    const float z = where_sloped(x), s = sigmoid_of(twice_u(x));
    return s + z * (kScale + 3 * kScale * kCubic * z * z) * (s - s * s);
  }
};

struct SiluFormula {
  __device__ static float value(float x) { return finite_below(x) * sigmoid_of(x); }
  __device__ static float slope(float x) {
    const float s = sigmoid_of(x);
    return s + where_sloped(x) * (s - s * s);
  }
};

struct SigmoidFormula {
  __device__ static float value(float x) { return sigmoid_of(x); }
  __device__ static float slope(float y) { return y - y * y; }
};

struct TanhFormula {
  __device__ static float value(float x) { return tanhf(x); }
  __device__ static float slope(float y) { return 1.0f - y * y; }
};

/// Calls f.operator()<Formula>().
template <typename F>
void dispatch_activation(Activation kind, F&& f) {
  switch (kind) {
    case Activation::relu:
      return f.template operator()<ReluFormula>();
    case Activation::gelu_erf:
      return f.template operator()<GeluErfFormula>();
    case Activation::gelu_tanh:
      return f.template operator()<GeluTanhFormula>();
    case Activation::silu:
      return f.template operator()<SiluFormula>();
    case Activation::sigmoid:
      return f.template operator()<SigmoidFormula>();
    case Activation::tanh:
      return f.template operator()<TanhFormula>();
  }
}

}  // namespace dattn::cuda
