// CPU kernels of cross entropy.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/loss_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/memory.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "layers/loss.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// Rows a tile: about as many elements as the other operations take.
constexpr std::int64_t RowTile(std::int64_t classes) { return std::max<std::int64_t>(1, kElementTile / classes); }

// The targets t of row n, before smoothing: a class, or a distribution.
template <typename T>
struct Targets {
  const std::int64_t* classes = nullptr;
  const T* distributions = nullptr;

  explicit Targets(const Tensor& t) {
    if (t.dtype() == Dtype::int64)
      classes = t.data<std::int64_t>();
    else
      distributions = t.data<T>();
  }
};

template <typename T>
HWY_INLINE T Largest(std::int64_t n, const T* x) {
  return max_lanes<T>(n, std::numeric_limits<T>::lowest(),
                      [&](auto d, std::int64_t i) HWY_ATTR { return hn::LoadU(d, x + i); });
}

template <typename T>
HWY_INLINE T Sum(std::int64_t n, const T* x) {
  return sum_lanes<T>(n, [&](auto d, std::int64_t i) HWY_ATTR { return hn::LoadU(d, x + i); });
}

// sum_c q_c (log sum_k exp s_k - s_c) with s = z - max z: no large numbers cancel. `s` is scratch of one row.
template <typename T>
HWY_INLINE T RowLoss(std::int64_t classes, const T* z, const Targets<T>& targets, std::int64_t row, T smoothing, T* s) {
  const T most = Largest(classes, z);
  const T log_sum = std::log(exp_sum(classes, z, most, s));
  for_lanes<T>(classes, [&](auto d, std::int64_t c)
                            HWY_ATTR { hn::StoreU(hn::Sub(hn::LoadU(d, z + c), hn::Set(d, most)), d, s + c); });
  T mass = 1, hit;  // sum t, sum t s
  if (targets.classes) {
    hit = s[targets.classes[row]];
  } else {
    const T* t = targets.distributions + row * classes;
    mass = Sum(classes, t);
    hit = dot(classes, t, s);
  }
  T loss = (1 - smoothing) * (mass * log_sum - hit);
  if (smoothing > 0) loss += smoothing * (log_sum - Sum(classes, s) / static_cast<T>(classes));
  return loss;
}

// dz_c = g (softmax(z)_c sum q - q_c)
template <typename T>
HWY_INLINE void RowGradient(std::int64_t classes, const T* z, const Targets<T>& targets, std::int64_t row, T smoothing,
                            T g, T* dz) {
  const T* t = targets.classes ? nullptr : targets.distributions + row * classes;
  const T mass = t ? (1 - smoothing) * Sum(classes, t) + smoothing : 1;
  const T scale = g * mass / exp_sum(classes, z, Largest(classes, z), dz);
  const T floor = g * smoothing / static_cast<T>(classes);
  for_lanes<T>(classes, [&](auto d, std::int64_t c) HWY_ATTR {
    hn::StoreU(hn::MulSub(hn::LoadU(d, dz + c), hn::Set(d, scale), hn::Set(d, floor)), d, dz + c);
  });
  const T weight = g * (1 - smoothing);
  if (t)
    axpy(classes, -weight, t, dz);
  else
    dz[targets.classes[row]] -= weight;
}

void CheckClasses(const Tensor& logits, const Tensor& targets) {
  const std::int64_t classes = logits.size(1);
  const auto labels = targets.values<std::int64_t>();
  for (std::size_t n = 0; n < labels.size(); ++n) {
    check(labels[n] >= 0 && labels[n] < classes,
          "cross_entropy: targets[{}] is {}, expected a class in 0 .. {} (logits {})", n, labels[n], classes - 1,
          logits.shape());
  }
}

void CrossEntropyForward(const Tensor& logits, const Tensor& targets, double smoothing, Reduction reduction,
                         Tensor& loss) {
  if (targets.dtype() == Dtype::int64) CheckClasses(logits, targets);
  dispatch_float("cross_entropy", logits.dtype(), [&]<typename T>() HWY_ATTR {
    const std::int64_t rows = logits.size(0), classes = logits.size(1);
    const Targets<T> t(targets);
    const T* z = logits.data<T>();
    Scratch<T> losses(static_cast<std::size_t>(rows));
    parallel_for(rows, RowTile(classes), [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      Scratch<T> shifted(static_cast<std::size_t>(classes));
      for (std::int64_t n = begin; n < end; ++n) {
        losses[n] = RowLoss(classes, z + n * classes, t, n, static_cast<T>(smoothing), shifted.data());
      }
    });
    double sum = 0;
    for (std::int64_t n = 0; n < rows; ++n) sum += losses[n];
    *loss.data<T>() = static_cast<T>(reduction == Reduction::mean ? sum / static_cast<double>(rows) : sum);
  });
}

void CrossEntropyBackward(const Tensor& dloss, const Tensor& logits, const Tensor& targets, double smoothing,
                          Reduction reduction, Tensor& dlogits) {
  dispatch_float("cross_entropy", logits.dtype(), [&]<typename T>() HWY_ATTR {
    const std::int64_t rows = logits.size(0), classes = logits.size(1);
    const Targets<T> t(targets);
    const T g = *dloss.data<T>() / static_cast<T>(reduction == Reduction::mean ? rows : 1);
    const T* z = logits.data<T>();
    T* dz = dlogits.data<T>();
    parallel_for(rows, RowTile(classes), [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      for (std::int64_t n = begin; n < end; ++n) {
        RowGradient(classes, z + n * classes, t, n, static_cast<T>(smoothing), g, dz + n * classes);
      }
    });
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(CrossEntropyForward);
HWY_EXPORT(CrossEntropyBackward);

static void cross_entropy_forward_cpu(const Tensor& logits, const Tensor& targets, double smoothing,
                                      Reduction reduction, Tensor& loss) {
  HWY_DYNAMIC_DISPATCH(CrossEntropyForward)(logits, targets, smoothing, reduction, loss);
}
static void cross_entropy_backward_cpu(const Tensor& dloss, const Tensor& logits, const Tensor& targets,
                                       double smoothing, Reduction reduction, Tensor& dlogits) {
  HWY_DYNAMIC_DISPATCH(CrossEntropyBackward)(dloss, logits, targets, smoothing, reduction, dlogits);
}

constinit Kernel<void(const Tensor&, const Tensor&, double, Reduction, Tensor&)> cross_entropy_forward{
    "cross_entropy_forward", cross_entropy_forward_cpu};
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, double, Reduction, Tensor&)> cross_entropy_backward{
    "cross_entropy_backward", cross_entropy_backward_cpu};

}  // namespace dattn
#endif
