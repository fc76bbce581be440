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

/// The probability that a standard normal number is below x, and its density there.
struct Normal {
  float below, density;
};

/// In full precision for results in float. For those in bfloat16 by Abramowitz and Stegun's 7.1.26, erfc(z) = P(1 / (1
/// + p z)) exp(-z^2) within 1.5e-7 for z >= 0, whose exponential is the density's.
template <typename S>
__device__ __forceinline__ Normal normal_at(float x) {
  constexpr float kRootHalf = 0.70710678118654752f, kDensity = 0.39894228040143268f, kHalfLog2e = 0.72134752044448170f;
  if constexpr (std::is_same_v<S, float>) {
    const float z = where_sloped(x);
    return {0.5f * erfcf(x * -kRootHalf), kDensity * expf(-0.5f * z * z)};
  } else {
    const float t = fast_reciprocal(fmaf(0.3275911f * kRootHalf, fabsf(x), 1.0f)),
                power = fast_exp2(-kHalfLog2e * x * x);
    const float inner = fmaf(t, fmaf(t, 1.061405429f, -1.453152027f), 1.421413741f);
    const float above = 0.5f * t * fmaf(t, fmaf(t, inner, -0.284496736f), 0.254829592f) * power;  // |x|
    return {x < 0 ? above : 1 - above, kDensity * power};
  }
}

struct ReluFormula {
  __device__ static float value(float x) { return x < 0 ? 0.0f : x; }
  __device__ static float slope(float y) { return y > 0 ? 1.0f : 0.0f; }
};

template <typename S>
struct GeluErfFormula {
  __device__ static float value(float x) { return finite_below(x) * normal_at<S>(x).below; }
  __device__ static float slope(float x) {
    const Normal at = normal_at<S>(x);
    return fmaf(where_sloped(x), at.density, at.below);
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

/// Calls f.operator()<Formula>() with the formula for results of type S.
template <typename S, typename F>
void dispatch_activation(Activation kind, F&& f) {
  switch (kind) {
    case Activation::relu:
      return f.template operator()<ReluFormula>();
    case Activation::gelu_erf:
      return f.template operator()<GeluErfFormula<S>>();
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
