// CPU kernels of the activations and softmax: one pass each way.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/activation_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <limits>

#include "core/parallel.h"
#include "layers/activation.h"
#include "layers/activation_formulas-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

constexpr std::int64_t kTile = 4096;  // elements a tile: some microseconds, so that small maps have several

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
  dispatch_activations(name(kind), x.dtype(), [&]<typename S>() HWY_ATTR {
    DispatchActivation(kind, [&]<typename Formula>(Formula) HWY_ATTR {
      const S* px = x.data<S>();
      S* py = y.data<S>();
      parallel_for(x.elements(), kTile, [=](std::int64_t begin, std::int64_t end) HWY_ATTR {
        for_lanes<Exact<S>>(end - begin, [=](auto d, std::int64_t i) HWY_ATTR {
          store(Formula::value(d, load(d, px + begin + i)), d, py + begin + i);
        });
      });
    });
  });
}

void ActivationBackward(Activation kind, const Tensor& dy, const Tensor& saved, Tensor& dx) {
  dispatch_activations(name(kind), dy.dtype(), [&]<typename S>() HWY_ATTR {
    DispatchActivation(kind, [&]<typename Formula>(Formula) HWY_ATTR {
      const S *pdy = dy.data<S>(), *ps = saved.data<S>();
      S* pdx = dx.data<S>();
      parallel_for(dy.elements(), kTile, [=](std::int64_t begin, std::int64_t end) HWY_ATTR {
        for_lanes<Exact<S>>(end - begin, [=](auto d, std::int64_t i) HWY_ATTR {
          const auto slope = Formula::slope(d, load(d, ps + begin + i));
          store(hn::Mul(load(d, pdy + begin + i), slope), d, pdx + begin + i);
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
                                                                              activation_forward_cpu, Bfloat16::native};
constinit Kernel<void(Activation, const Tensor&, const Tensor&, Tensor&)> activation_backward{
    "activation_backward", activation_backward_cpu, Bfloat16::native};
constinit Kernel<void(const Tensor&, Tensor&)> softmax_forward{"softmax_forward", softmax_forward_cpu};
constinit Kernel<void(const Tensor&, const Tensor&, Tensor&)> softmax_backward{"softmax_backward",
                                                                               softmax_backward_cpu};

}  // namespace dattn
#endif
