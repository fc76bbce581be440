// CPU kernels of the activations and softmax: one pass each way.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/activation_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <limits>
#include <numbers>

#include "core/parallel.h"
#include "core/simd.h"
#include "layers/activation.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

constexpr std::int64_t kTile = 16384;  // elements a tile: large beside the cost of a fork, small beside the L2 cache

// --- formulas: value(d, x), and slope(d, saved) = dy/dx from x or y, whichever is saved ---

// A factor that tends to 0 meets a finite x, so that their product is 0 at infinity. NaN comes back through the other
// factor.
template <class D, class V>
HWY_INLINE V Clamp(D d, V x, hn::TFromD<D> least, hn::TFromD<D> most) {
  return hn::Min(hn::Max(x, hn::Set(d, least)), hn::Set(d, most));
}
template <class D, class V>
HWY_INLINE V FiniteBelow(D d, V x) {
  return hn::Max(x, hn::Set(d, std::numeric_limits<hn::TFromD<D>>::lowest()));
}
// Slopes are 0 or 1 from here on, in float and in double.
template <class D, class V>
HWY_INLINE V WhereSloped(D d, V x) {
  return Clamp(d, x, -1000, 1000);
}

template <class D, class V>
HWY_INLINE V Sigmoid(D d, V x) {
  const V one = hn::Set(d, 1);
  return hn::Div(one, hn::Add(one, exp(d, hn::Neg(x))));
}

template <class D, class V>
HWY_INLINE V NormalCdf(D d, V x) {
  using T = hn::TFromD<D>;
  const V half = hn::Set(d, T(0.5));
  return hn::MulAdd(half, erf(d, hn::Mul(x, hn::Set(d, std::numbers::sqrt2_v<T> / 2))), half);
}

struct ReluFormula {
  template <class D, class V>
  static HWY_INLINE V value(D d, V x) {
    return hn::IfThenZeroElse(hn::Lt(x, hn::Zero(d)), x);
  }
  template <class D, class V>
  static HWY_INLINE V slope(D d, V y) {
    return hn::IfThenElseZero(hn::Gt(y, hn::Zero(d)), hn::Set(d, 1));
  }
};

struct GeluErfFormula {
  template <class D, class V>
  static HWY_INLINE V value(D d, V x) {
    return hn::Mul(FiniteBelow(d, x), NormalCdf(d, x));
  }
  template <class D, class V>
  static HWY_INLINE V slope(D d, V x) {
    using T = hn::TFromD<D>;
    const V z = WhereSloped(d, x);
    const V bell = exp(d, hn::Mul(hn::Mul(z, z), hn::Set(d, T(-0.5))));
    const V scale = hn::Set(d, std::numbers::inv_sqrtpi_v<T> * std::numbers::sqrt2_v<T> / 2);
    return hn::MulAdd(hn::Mul(z, scale), bell, NormalCdf(d, x));
  }
};

struct GeluTanhFormula {
  static constexpr double kScale = 2 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi, kCubic = 0.044715;

  // 2u = kScale (x + kCubic x^3)
  template <class D, class V>
  static HWY_INLINE V twice_u(D d, V x) {
    using T = hn::TFromD<D>;
    const V curve = hn::MulAdd(hn::Mul(x, x), hn::Set(d, T(kScale * kCubic)), hn::Set(d, T(kScale)));
    return hn::Mul(x, curve);
  }
  template <class D, class V>
  static HWY_INLINE V value(D d, V x) {
    return hn::Mul(FiniteBelow(d, x), Sigmoid(d, twice_u(d, x)));
  }
  template <class D, class V>
  static HWY_INLINE V slope(D d, V x) {
    using T = hn::TFromD<D>;
    const V z = WhereSloped(d, x), s = Sigmoid(d, twice_u(d, x));
    const V twice_du = hn::MulAdd(hn::Mul(z, z), hn::Set(d, T(3 * kScale * kCubic)), hn::Set(d, T(kScale)));
    return hn::MulAdd(hn::Mul(z, twice_du), hn::NegMulAdd(s, s, s), s);
  }
};

struct SiluFormula {
  template <class D, class V>
  static HWY_INLINE V value(D d, V x) {
    return hn::Mul(FiniteBelow(d, x), Sigmoid(d, x));
  }
  template <class D, class V>
  static HWY_INLINE V slope(D d, V x) {
    const V s = Sigmoid(d, x);
    return hn::MulAdd(WhereSloped(d, x), hn::NegMulAdd(s, s, s), s);
  }
};

struct SigmoidFormula {
  template <class D, class V>
  static HWY_INLINE V value(D d, V x) {
    return Sigmoid(d, x);
  }
  template <class D, class V>
  static HWY_INLINE V slope(D, V y) {
    return hn::NegMulAdd(y, y, y);
  }
};

struct TanhFormula {
  template <class D, class V>
  static HWY_INLINE V value(D d, V x) {
    return tanh(d, x);
  }
  template <class D, class V>
  static HWY_INLINE V slope(D d, V y) {
    return hn::NegMulAdd(y, y, hn::Set(d, 1));
  }
};

template <typename F>
HWY_INLINE void DispatchActivation(Activation kind, F&& f) {
  switch (kind) {
    case Activation::relu:
      return f(ReluFormula{});
    case Activation::gelu_erf:
      return f(GeluErfFormula{});
    case Activation::gelu_tanh:
      return f(GeluTanhFormula{});
    case Activation::silu:
      return f(SiluFormula{});
    case Activation::sigmoid:
      return f(SigmoidFormula{});
    case Activation::tanh:
      return f(TanhFormula{});
  }
}

// --- element by element ---

void ActivationForward(Activation kind, const Tensor& x, Tensor& y) {
  dispatch_float("activation", x.dtype(), [&]<typename T>() HWY_ATTR {
    DispatchActivation(kind, [&]<typename Formula>(Formula) HWY_ATTR {
      const T* px = x.data<T>();
      T* py = y.data<T>();
      parallel_for(x.elements(), kTile, [=](std::int64_t begin, std::int64_t end) HWY_ATTR {
        for_lanes<T>(end - begin, [=](auto d, std::int64_t i) HWY_ATTR {
          hn::StoreU(Formula::value(d, hn::LoadU(d, px + begin + i)), d, py + begin + i);
        });
      });
    });
  });
}

void ActivationBackward(Activation kind, const Tensor& dy, const Tensor& saved, Tensor& dx) {
  dispatch_float("activation", dy.dtype(), [&]<typename T>() HWY_ATTR {
    DispatchActivation(kind, [&]<typename Formula>(Formula) HWY_ATTR {
      const T *pdy = dy.data<T>(), *ps = saved.data<T>();
      T* pdx = dx.data<T>();
      parallel_for(dy.elements(), kTile, [=](std::int64_t begin, std::int64_t end) HWY_ATTR {
        for_lanes<T>(end - begin, [=](auto d, std::int64_t i) HWY_ATTR {
          const auto slope = Formula::slope(d, hn::LoadU(d, ps + begin + i));
          hn::StoreU(hn::Mul(hn::LoadU(d, pdy + begin + i), slope), d, pdx + begin + i);
        });
      });
    });
  });
}

// --- softmax ---

// Calls f(row) for every row of x [..., columns], in tiles of about kTile elements.
template <typename F>
HWY_INLINE void ForRows(const Tensor& x, F&& f) {
  const std::int64_t tile = std::max<std::int64_t>(1, kTile / std::max<std::int64_t>(1, x.size(-1)));
  parallel_for(x.shape().rows(), tile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
    for (std::int64_t row = begin; row < end; ++row) f(row);
  });
}

void SoftmaxForward(const Tensor& x, Tensor& y) {
  dispatch_float("softmax", x.dtype(), [&]<typename T>() HWY_ATTR {
    const std::int64_t columns = x.size(-1);
    ForRows(x, [&, px = x.data<T>(), py = y.data<T>()](std::int64_t row) HWY_ATTR {
      const T* xr = px + row * columns;
      T* yr = py + row * columns;
      const T most = max_lanes<T>(columns, std::numeric_limits<T>::lowest(),
                                  [&](auto d, std::int64_t i) HWY_ATTR { return hn::LoadU(d, xr + i); });
      const T scale = 1 / exp_sum(columns, xr, most, yr);
      for_lanes<T>(columns, [&](auto d, std::int64_t i)
                                HWY_ATTR { hn::StoreU(hn::Mul(hn::LoadU(d, yr + i), hn::Set(d, scale)), d, yr + i); });
    });
  });
}

void SoftmaxBackward(const Tensor& dy, const Tensor& y, Tensor& dx) {
  dispatch_float("softmax", dy.dtype(), [&]<typename T>() HWY_ATTR {
    const std::int64_t columns = dy.size(-1);
    ForRows(dy, [&, pdy = dy.data<T>(), py = y.data<T>(), pdx = dx.data<T>()](std::int64_t row) HWY_ATTR {
      const T *dyr = pdy + row * columns, *yr = py + row * columns;
      T* dxr = pdx + row * columns;
      const T mean = dot(columns, dyr, yr);  // of dy under the distribution y
      for_lanes<T>(columns, [&](auto d, std::int64_t i) HWY_ATTR {
        hn::StoreU(hn::Mul(hn::LoadU(d, yr + i), hn::Sub(hn::LoadU(d, dyr + i), hn::Set(d, mean))), d, dxr + i);
      });
    });
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(ActivationForward);
HWY_EXPORT(ActivationBackward);
HWY_EXPORT(SoftmaxForward);
HWY_EXPORT(SoftmaxBackward);

static void activation_forward_cpu(Activation kind, const Tensor& x, Tensor& y) {
  HWY_DYNAMIC_DISPATCH(ActivationForward)(kind, x, y);
}
static void activation_backward_cpu(Activation kind, const Tensor& dy, const Tensor& saved, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(ActivationBackward)(kind, dy, saved, dx);
}
static void softmax_forward_cpu(const Tensor& x, Tensor& y) { HWY_DYNAMIC_DISPATCH(SoftmaxForward)(x, y); }
static void softmax_backward_cpu(const Tensor& dy, const Tensor& y, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(SoftmaxBackward)(dy, y, dx);
}

constinit Kernel<void(Activation, const Tensor&, Tensor&)> activation_forward{"activation_forward",
                                                                              activation_forward_cpu};
constinit Kernel<void(Activation, const Tensor&, const Tensor&, Tensor&)> activation_backward{"activation_backward",
                                                                                              activation_backward_cpu};
constinit Kernel<void(const Tensor&, Tensor&)> softmax_forward{"softmax_forward", softmax_forward_cpu};
constinit Kernel<void(const Tensor&, const Tensor&, Tensor&)> softmax_backward{"softmax_backward",
                                                                               softmax_backward_cpu};

}  // namespace dattn
#endif
