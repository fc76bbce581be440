// CPU kernel of the convolution's filter gradient: dw[o,kh,kw,c] += sum over n,i,j of dy[n,i,j,o] x[n, i s - p + kh d,
// ..., c]. Rows of images are packed into panels of channels, in which the pixels of one tap follow each other, for x
// and dy alike.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/conv2d_filter_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <array>

#include "core/partial_sums.h"
#include "core/simd.h"
#include "layers/conv2d.h"
#include "layers/conv2d_bfloat16.h"
#include "layers/conv2d_taps.h"
#include "layers/multiply_block-inl.h"
#include "layers/winograd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// x or dy as a matrix of pixels and channels, packed as panels [G][panel][pixel][width]; channels beyond the last are
// zero.
template <typename T>
struct ChannelPanels {
  const T* data;
  std::int64_t row_pixels, G, channels, width, panels;  // channels and panels of one group

  ChannelPanels(const Tensor& images, std::int64_t groups, std::int64_t panel_width)
      : data(images.data<T>()),
        row_pixels(images.size(2)),
        G(groups),
        channels(images.size(3) / groups),
        width(panel_width),
        panels(tile_count(channels, width)) {}

  std::size_t size(std::int64_t rows) const { return static_cast<std::size_t>(G * panels * rows * row_pixels * width); }

  // Rows [begin, end) of all images one below the other.
  void pack(std::int64_t begin, std::int64_t end, T* to) const {
    const std::int64_t pixels = (end - begin) * row_pixels;
    for (std::int64_t i = 0; i < G * panels; ++i, to += pixels * width) {
      const std::int64_t first = i % panels * width, count = std::min(width, channels - first);
      const T* from = data + begin * row_pixels * G * channels + i / panels * channels + first;
      if (width == kRows && count == width) {
        pack_panel<kRows>(from, pixels, to);
      } else {
        pack_panel(from, pixels, count, to);
      }
    }
  }

 private:
  // A width known to the compiler makes the copy two moves.
  template <int W>
  void pack_panel(const T* from, std::int64_t pixels, T* to) const {
    for (std::int64_t p = 0; p < pixels; ++p, from += G * channels, to += W) std::copy_n(from, W, to);
  }

  void pack_panel(const T* from, std::int64_t pixels, std::int64_t count, T* to) const {
    for (std::int64_t p = 0; p < pixels; ++p, from += G * channels, to += width) {
      for_lanes<T>(count, [&](auto d, std::int64_t c) HWY_ATTR { hn::StoreU(hn::LoadU(d, from + c), d, to + c); });
      for (std::int64_t c = count; c < width; ++c) to[c] = 0;
    }
  }
};

// One filter gradient. Its blocks have 6 channels of one tensor as rows and a panel of the other's as columns.
template <typename T>
class FilterGradient {
 public:
  FilterGradient(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw)
      : o_(o),
        N_(x.size(0)),
        H_(x.size(1)),
        W_(x.size(2)),
        Ho_(dy.size(1)),
        Wo_(dy.size(2)),
        Kh_(dw.size(1)),
        Kw_(dw.size(2)),
        x_in_rows_(padded(x, dy) < padded(dy, x)),
        x_(x, o.groups, x_in_rows_ ? kRows : block_columns<T>()),
        dy_(dy, o.groups, x_in_rows_ ? block_columns<T>() : kRows),
        block_(kRows * block_columns<T>()),
        dw_(dw.data<T>()) {
    tile_ = std::max<std::int64_t>(1, kPanelBytes / (block_columns<T>() * static_cast<std::int64_t>(sizeof(T))) / Wo_);
  }

  void run() {
    const std::int64_t size = o_.groups * x_.panels * dy_.panels * Kh_ * Kw_ * block_;
    const std::int64_t bytes = size * static_cast<std::int64_t>(sizeof(T));
    const std::int64_t most = std::clamp<std::int64_t>(kPartsBytes / bytes, kLeastParts, kMostParts);
    PartialSums<T> sums(N_ * Ho_, part_length(N_ * Ho_, tile_, most), size);
    sums.gather([&](std::int64_t begin, std::int64_t end, T* sum) HWY_ATTR { add_rows(begin, end, sum); });
    add_sums(sums);
  }

 private:
  static constexpr std::int64_t kPartsBytes = 32 << 20, kLeastParts = 8, kMostParts = 64;  // of all partial sums
  static constexpr std::int64_t kPanelBytes = 20 << 10;  // of one packed panel: it stays in the L1 cache

  // Products of a block's multiply-adds that `rows` and `columns` would need, padding included.
  static std::int64_t padded(const Tensor& rows, const Tensor& columns) {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(Wide<T>()));
    return round_up(rows.size(3), kRows) * round_up(columns.size(3), lanes);
  }

  // Rows [begin, end) of dy, all images one below the other, into one partial sum [G][x panel][dy
  // panel][tap][6][columns].
  void add_rows(std::int64_t begin, std::int64_t end, T* sums) const {
    Scratch<T> dy(dy_.size(tile_)), x(x_.size(source_rows(tile_)));
    Scratch<Run> runs(static_cast<std::size_t>(Kh_ * Kw_ * tile_));
    Scratch<std::int64_t> run_begin(static_cast<std::size_t>(Kh_ * Kw_ + 1));
    for (std::int64_t r = begin; r < end; r += tile_) {
      const std::int64_t last = std::min(end, r + tile_);
      const std::int64_t x_begin = r / Ho_ * H_ + std::clamp<std::int64_t>(r % Ho_ * o_.stride - o_.padding, 0, H_);
      const std::int64_t x_last = (last - 1) % Ho_ * o_.stride - o_.padding + (Kh_ - 1) * o_.dilation + 1;
      const std::int64_t x_end = std::max(x_begin, (last - 1) / Ho_ * H_ + std::clamp<std::int64_t>(x_last, 0, H_));
      dy_.pack(r, last, dy.data());
      x_.pack(x_begin, x_end, x.data());
      find_runs(r, last, x_begin, runs.data(), run_begin.data());
      add_tile(x.data(), (x_end - x_begin) * W_, dy.data(), (last - r) * Wo_, runs.data(), run_begin.data(), sums);
    }
  }

  // The most rows of x that `rows` rows of dy meet.
  std::int64_t source_rows(std::int64_t rows) const {
    const std::int64_t images = (rows + Ho_ - 2) / Ho_ + 1;
    return std::min(N_ * H_, images * H_);
  }

  // For each tap the pixels of dy rows [begin, end) and of x, row by row, whose products it sums.
  void find_runs(std::int64_t begin, std::int64_t end, std::int64_t x_begin, Run* runs, std::int64_t* run_begin) const {
    std::int64_t count = 0;
    for (std::int64_t kh = 0; kh < Kh_; ++kh) {
      for (std::int64_t kw = 0; kw < Kw_; ++kw) {
        run_begin[kh * Kw_ + kw] = count;
        const TapTargets columns(kw, Wo_, W_, o_);
        for (std::int64_t r = begin; r < end && columns.begin < columns.end; ++r) {
          const std::int64_t h = r % Ho_ * o_.stride - o_.padding + kh * o_.dilation;
          if (h < 0 || h >= H_) continue;
          const std::int64_t dy_at = (r - begin) * Wo_ + columns.begin;
          const std::int64_t x_at = (r / Ho_ * H_ + h - x_begin) * W_ + columns.begin * o_.stride + columns.shift;
          runs[count++] = x_in_rows_ ? Run{x_at * x_.width, dy_at * dy_.width, columns.end - columns.begin}
                                     : Run{dy_at * dy_.width, x_at * x_.width, columns.end - columns.begin};
        }
      }
    }
    run_begin[Kh_ * Kw_] = count;
  }

  void add_tile(const T* x, std::int64_t x_pixels, const T* dy, std::int64_t dy_pixels, const Run* runs,
                const std::int64_t* run_begin, T* sums) const {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(Wide<T>()));
    const ChannelPanels<T>& columns = x_in_rows_ ? dy_ : x_;
    const std::int64_t x_step = o_.stride * x_.width, dy_step = dy_.width;
    for (std::int64_t i = 0; i < o_.groups * x_.panels; ++i) {
      for (std::int64_t j = 0; j < dy_.panels; ++j) {
        const std::int64_t column_panel = x_in_rows_ ? j : i % x_.panels;
        const std::int64_t width = std::min(columns.width, columns.channels - column_panel * columns.width);
        const T* px = x + i * x_pixels * x_.width;
        const T* pdy = dy + (i / x_.panels * dy_.panels + j) * dy_pixels * dy_.width;
        for (std::int64_t k = 0; k < Kh_ * Kw_; ++k, sums += block_) {
          std::array<const T*, kRows> a;
          std::array<T*, kRows> c;
          for (int m = 0; m < kRows; ++m) a[m] = (x_in_rows_ ? px : pdy) + m, c[m] = sums + m * columns.width;
          multiply_block<T>(static_cast<int>(tile_count(width, lanes)), a.data(), x_in_rows_ ? x_step : dy_step,
                            x_in_rows_ ? pdy : px, x_in_rows_ ? dy_step : x_step, runs + run_begin[k],
                            runs + run_begin[k + 1], nullptr, c.data());
        }
      }
    }
  }

  // dw += the partial sums, in order.
  void add_sums(PartialSums<T>& sums) const {
    const std::int64_t taps = Kh_ * Kw_, size = taps * block_;
    parallel_for(o_.groups * x_.panels * dy_.panels, 1, [&](std::int64_t i, std::int64_t) HWY_ATTR {
      T* sum = sums.part(0) + i * size;
      for (std::int64_t p = 1; p < sums.parts(); ++p) axpy<T>(size, T(1), sum + p * sums.size(), sum);
      const std::int64_t x_panel = i / dy_.panels, dy_panel = i % dy_.panels;
      const std::int64_t first_c = x_panel % x_.panels * x_.width, first_o = dy_panel * dy_.width;
      const std::int64_t count_c = std::min(x_.width, x_.channels - first_c),
                         count_o = std::min(dy_.width, dy_.channels - first_o);
      const std::int64_t step_c = x_in_rows_ ? dy_.width : 1, step_o = x_in_rows_ ? 1 : x_.width;
      for (std::int64_t out = 0; out < count_o; ++out) {
        const std::int64_t filter = x_panel / x_.panels * dy_.channels + first_o + out;
        for (std::int64_t k = 0; k < taps; ++k) {
          T* to = dw_ + (filter * taps + k) * x_.channels + first_c;
          for (std::int64_t c = 0; c < count_c; ++c) to[c] += sum[k * block_ + out * step_o + c * step_c];
        }
      }
    });
  }

  const Conv2dOptions o_;
  const std::int64_t N_, H_, W_, Ho_, Wo_, Kh_, Kw_;
  const bool
      x_in_rows_;  // x's channels are the rows of blocks and dy's the columns, or the other way round: what pads less
  const ChannelPanels<T> x_, dy_;
  const std::int64_t block_;
  T* dw_;
  std::int64_t tile_;  // rows of dy that are packed at once
};

void Conv2dBackwardFilter(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw) {
  dispatch_float("conv2d", dy.dtype(), [&]<typename T>() HWY_ATTR {
    if (dy.elements() > 0) FilterGradient<T>(dy, x, o, dw).run();
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

namespace {
HWY_EXPORT(Conv2dBackwardFilter);
void direct_backward_filter(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw) {
  HWY_DYNAMIC_DISPATCH(Conv2dBackwardFilter)(dy, x, o, dw);
}
void backward_filter_cpu(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw) {
  if (conv2d_bfloat16_suits(x, dw, o)) return conv2d_bfloat16_backward_filter(dy, x, dw);
  if (winograd_suits(dw, o, x.shape(), dy.shape())) return winograd_backward_filter(dy, x, o, dw);
  call_in_float32(direct_backward_filter, dy, x, o, dw);
}
}  // namespace

constinit Kernel<void(const Tensor&, const Tensor&, const Conv2dOptions&, Tensor&)> conv2d_backward_filter{
    "conv2d_backward_filter", backward_filter_cpu, Bfloat16::native};

}  // namespace dattn
#endif
