// CPU kernels of DAttention's sampling positions, p = r + s tanh(o) or clamp(r + o) (2), and their gradients (31).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/dattention_positions_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "core/parallel.h"
#include "core/simd.h"
#include "layers/dattention_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// Reference point (1) and offset range of every number of an image's positions [Hk,Wk,G,2].
template <typename T>
class References {
 public:
  References(const Shape& shape, double factor)
      : numbers(shape[1] * shape[2] * shape[3] * 2),
        point(static_cast<std::size_t>(numbers)),
        range(static_cast<std::size_t>(numbers)) {
    const std::int64_t height = shape[1], width = shape[2], groups = shape[3];
    const auto range_of = [&](std::int64_t size) {
      return static_cast<T>(factor / static_cast<double>(std::max<std::int64_t>(size - 1, 1)));
    };
    const T range_y = range_of(height), range_x = range_of(width);
    T *p = point.data(), *s = range.data();
    for (std::int64_t i = 0; i < height; ++i) {
      const T y = static_cast<T>(dattention_reference_point(i, height));
      for (std::int64_t j = 0; j < width; ++j) {
        const T x = static_cast<T>(dattention_reference_point(j, width));
        for (std::int64_t g = 0; g < groups; ++g, p += 2, s += 2) p[0] = y, p[1] = x, s[0] = range_y, s[1] = range_x;
      }
    }
  }

  const std::int64_t numbers;
  Scratch<T> point, range;
};

// Calls f(d, at, i) for vectors of the numbers i of `images` images of n numbers each, `at` being their place among
// all.
template <typename T, typename F>
HWY_INLINE void for_numbers(std::int64_t images, std::int64_t n, F&& f) {
  constexpr std::int64_t kPiece = 2048;  // one image of many positions has several
  const std::int64_t pieces = tile_count(n, kPiece);
  parallel_for(images * pieces, 1, [&](std::int64_t piece, std::int64_t) HWY_ATTR {
    const std::int64_t first = piece % pieces * kPiece, image = piece / pieces * n;
    for_lanes<T>(std::min(kPiece, n - first),
                 [&](auto d, std::int64_t i) HWY_ATTR { f(d, image + first + i, first + i); });
  });
}

void PositionsForward(const Tensor& offsets, double factor, Tensor& positions) {
  dispatch_float("dattention_positions", offsets.dtype(), [&]<typename T>() HWY_ATTR {
    References<T> references(offsets.shape(), factor);
    const T *o = offsets.data<T>(), *r = references.point.data(), *s = references.range.data();
    T* p = positions.data<T>();
    for_numbers<T>(offsets.size(0), references.numbers, [&](auto d, std::int64_t at, std::int64_t i) HWY_ATTR {
      const auto offset = hn::LoadU(d, o + at), point = hn::LoadU(d, r + i);
      const auto one = hn::Set(d, T(1));
      if (factor >= 0) {
        hn::StoreU(hn::MulAdd(hn::LoadU(d, s + i), hn::Tanh(d, offset), point), d, p + at);
      } else {  // NaN stays NaN, which Min and Max alone do not promise
        const auto moved = hn::Add(offset, point), inside = hn::Min(hn::Max(moved, hn::Neg(one)), one);
        hn::StoreU(hn::IfThenElse(hn::Eq(moved, moved), inside, moved), d, p + at);
      }
    });
  });
}

void PositionsBackward(const Tensor& dpositions, const Tensor& offsets, double factor, Tensor& doffsets) {
  dispatch_float("dattention_positions", offsets.dtype(), [&]<typename T>() HWY_ATTR {
    References<T> references(offsets.shape(), factor);
    const T *o = offsets.data<T>(), *dp = dpositions.data<T>(), *r = references.point.data(),
            *s = references.range.data();
    T* po = doffsets.data<T>();
    for_numbers<T>(offsets.size(0), references.numbers, [&](auto d, std::int64_t at, std::int64_t i) HWY_ATTR {  // (31)
      const auto offset = hn::LoadU(d, o + at), gradient = hn::LoadU(d, dp + at);
      const auto one = hn::Set(d, T(1));
      if (factor >= 0) {
        const auto t = hn::Tanh(d, offset);
        hn::StoreU(hn::Mul(hn::Mul(gradient, hn::LoadU(d, s + i)), hn::NegMulAdd(t, t, one)), d, po + at);
      } else {
        const auto inside = hn::Le(hn::Abs(hn::Add(offset, hn::LoadU(d, r + i))), one);
        hn::StoreU(hn::IfThenElseZero(inside, gradient), d, po + at);
      }
    });
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(PositionsForward);
static void positions_forward_cpu(const Tensor& offsets, double factor, Tensor& positions) {
  HWY_DYNAMIC_DISPATCH(PositionsForward)(offsets, factor, positions);
}
constinit Kernel<void(const Tensor&, double, Tensor&)> dattention_positions_forward{"dattention_positions_forward",
                                                                                    positions_forward_cpu};

HWY_EXPORT(PositionsBackward);
static void positions_backward_cpu(const Tensor& dpositions, const Tensor& offsets, double factor, Tensor& doffsets) {
  HWY_DYNAMIC_DISPATCH(PositionsBackward)(dpositions, offsets, factor, doffsets);
}
constinit Kernel<void(const Tensor&, const Tensor&, double, Tensor&)> dattention_positions_backward{
    "dattention_positions_backward", positions_backward_cpu};

}  // namespace dattn
#endif
