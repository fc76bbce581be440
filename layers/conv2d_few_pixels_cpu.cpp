// CPU kernel of the convolution of few pixels: tap by tap, the pixels that meet it are multiplied with the filters as
// they lie.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/conv2d_few_pixels_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "core/memory.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "layers/conv2d_few_pixels.h"
#include "layers/conv2d_taps.h"
#include "layers/row_dots-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// An output pixel and the input pixel [C] that one tap brings to it.
template <typename S>
struct Meeting {
  const S* source;
  std::int64_t target;
};

// The meetings of every tap [Kh,Kw] over all images.
template <typename S>
class Meetings {
 public:
  Meetings(const Tensor& x, const Tensor& w, const Conv2dOptions& o, const Tensor& y) {
    const std::int64_t H = x.size(1), W = x.size(2), C = x.size(3), Ho = y.size(1), Wo = y.size(2);
    const Taps rows(Ho, H, w.size(1), o, false), columns(Wo, W, w.size(2), o, false);
    meetings_.reserve(static_cast<std::size_t>(w.size(1) * w.size(2) * y.shape().rows()));
    for (std::int64_t k = 0; k < w.size(1) * w.size(2); ++k) {
      begin_.push_back(meetings_.size());
      for (std::int64_t p = 0; p < y.shape().rows(); ++p) {
        const Taps::Tap* row = tap_of(rows.of(p / Wo % Ho), k / w.size(2));
        const Taps::Tap* column = tap_of(columns.of(p % Wo), k % w.size(2));
        if (!row || !column) continue;
        meetings_.push_back({x.data<S>() + ((p / (Ho * Wo) * H + row->source) * W + column->source) * C, p});
      }
    }
    begin_.push_back(meetings_.size());
  }

  std::int64_t taps() const { return static_cast<std::int64_t>(begin_.size()) - 1; }
  std::span<const Meeting<S>> of(std::int64_t tap) const {
    const auto i = static_cast<std::size_t>(tap);
    return {meetings_.data() + begin_[i], begin_[i + 1] - begin_[i]};
  }

 private:
  static const Taps::Tap* tap_of(std::span<const Taps::Tap> taps, std::int64_t k) {
    const auto found = std::find_if(taps.begin(), taps.end(), [&](Taps::Tap tap) { return tap.k == k; });
    return found == taps.end() ? nullptr : &*found;
  }

  PoolVector<Meeting<S>> meetings_;
  PoolVector<std::size_t> begin_;
};

// Output channels [begin, end), no more than a block has.
template <typename S, typename T>
void few_outputs(const Meetings<S>& meetings, const Tensor& w, const T* bias, std::int64_t begin, std::int64_t end,
                 DotSums<T>* sums, Tensor& y) {
  const std::int64_t pixels = y.shape().rows(), O = y.size(3), C = w.size(3);
  std::fill_n(sums->lanes, pixels * static_cast<std::int64_t>(sizeof(DotSums<T>) / sizeof(T)), T(0));
  for (std::int64_t tap = 0; tap < meetings.taps(); ++tap) {
    const auto of_tap = meetings.of(tap);
    const T* filters[kDotOutputs];  // outputs beyond the last repeat one
    for (std::int64_t i = 0; i < kDotOutputs; ++i) {
      filters[i] = w.data<T>() + (std::min(begin + i, end - 1) * meetings.taps() + tap) * C;
    }
    add_row_dots<S>(true, static_cast<std::int64_t>(of_tap.size()), C, filters,
                    [&](std::int64_t i, const S*& row, DotSums<T>*& sum) HWY_ATTR {
                      const Meeting<S>& meeting = of_tap[static_cast<std::size_t>(i)];
                      row = meeting.source, sum = sums + meeting.target;
                    });
  }
  for (std::int64_t p = 0; p < pixels; ++p) {
    store_dots(sums[p], bias ? bias + begin : nullptr, end - begin, y.data<S>() + p * O + begin);
  }
}

void FewPixelsForward(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y) {
  constexpr std::int64_t kTile = 16;  // output channels: in float, whole cache lines
  dispatch_activations("conv2d", x.dtype(), [&]<typename S>() HWY_ATTR {
    using T = Exact<S>;
    const Meetings<S> meetings(x, w, o, y);
    const T* bias = b ? b.data<T>() : nullptr;
    parallel_for(y.size(3), kTile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      Scratch<DotSums<T>> sums(static_cast<std::size_t>(y.shape().rows()));
      for (std::int64_t i = begin; i < end; i += kDotOutputs) {
        few_outputs(meetings, w, bias, i, std::min(end, i + kDotOutputs), sums.data(), y);
      }
    });
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(FewPixelsForward);

bool few_pixels_suit(const Tensor& w, const Conv2dOptions& o, const Shape& target) {
  constexpr std::int64_t kMostPixels = 200, kLeastWeights = 16384;
  return o.groups == 1 && target.rows() <= kMostPixels && target.elements() > 0 && w.elements() >= kLeastWeights;
}

void few_pixels_forward(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y) {
  HWY_DYNAMIC_DISPATCH(FewPixelsForward)(x, w, b, o, y);
}

}  // namespace dattn
#endif
