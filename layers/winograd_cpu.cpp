// CPU kernels of Winograd's F(4x4, 3x3). With the matrices B, G and A of the algorithm and d a square of 6x6 pixels,
//   forward and data gradient:  y = A' [sum over channels of (G w G') * (B' d B)] A        (4x4 pixels)
//   filter gradient:            dw = G' [sum over squares of (A dy A') * (B' d B)] G       (3x3 taps)
// where * multiplies the 36 places one by one: for each place, a matrix product over channels or squares. Squares go
// through in blocks, whose transforms stay in the cache.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/winograd_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "core/parallel.h"
#include "core/simd.h"
#include "layers/conv2d_block.h"
#include "layers/winograd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

constexpr int kIn = 6, kOut = 4, kTaps = 3, kPlaces = kIn * kIn;
constexpr std::int64_t kLine = 16;  // floats of a cache line: rows are this much longer, or they would share few sets
constexpr std::int64_t kLeastSquares = 24, kMostSquares = 96, kGroupColumns = 64;

/// Calls f(d, c) for the channels c = 0 ... count - 1 by full vectors, then by halves, quarters and so on.
template <typename D, typename F>
HWY_INLINE void for_channels(D d, std::int64_t begin, std::int64_t end, F&& f) {
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (; begin + lanes <= end; begin += lanes) f(d, begin);
  if constexpr (hn::MaxLanes(D()) > 1) {
    if (begin < end) for_channels(hn::Half<D>(), begin, end, f);
  }
}

// --- the matrices, as operations on one row or column of vectors ---

// B' d, 6 to 6.
struct InputTransform {
  static constexpr int kFrom = kIn, kTo = kIn;
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void apply(D d, const V* x, V* y) {
    const V two = hn::Set(d, 2.0f), four = hn::Set(d, 4.0f), five = hn::Set(d, 5.0f);
    const V even = hn::NegMulAdd(four, x[2], x[4]), odd = hn::NegMulAdd(four, x[1], x[3]);
    const V even2 = hn::Sub(x[4], x[2]), odd2 = hn::Mul(two, hn::Sub(x[3], x[1]));
    y[0] = hn::MulAdd(four, x[0], hn::NegMulAdd(five, x[2], x[4]));
    y[1] = hn::Add(even, odd), y[2] = hn::Sub(even, odd);
    y[3] = hn::Add(even2, odd2), y[4] = hn::Sub(even2, odd2);
    y[5] = hn::MulAdd(four, x[1], hn::NegMulAdd(five, x[3], x[5]));
  }
};

// A' m, 6 to 4.
struct OutputTransform {
  static constexpr int kFrom = kIn, kTo = kOut;
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void apply(D d, const V* m, V* y) {
    const V sum1 = hn::Add(m[1], m[2]), sum2 = hn::Add(m[3], m[4]);
    const V difference1 = hn::Sub(m[1], m[2]), difference2 = hn::Sub(m[3], m[4]);
    y[0] = hn::Add(hn::Add(m[0], sum1), sum2);
    y[1] = hn::MulAdd(hn::Set(d, 2.0f), difference2, difference1);
    y[2] = hn::MulAdd(hn::Set(d, 4.0f), sum2, sum1);
    y[3] = hn::Add(hn::MulAdd(hn::Set(d, 8.0f), difference2, difference1), m[5]);
  }
};

// A dy, 4 to 6.
struct OutputGradientTransform {
  static constexpr int kFrom = kOut, kTo = kIn;
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void apply(D d, const V* y, V* z) {
    const V two = hn::Set(d, 2.0f), four = hn::Set(d, 4.0f);
    const V even = hn::Add(y[0], y[2]), odd = hn::Add(y[1], y[3]);
    const V even2 = hn::MulAdd(four, y[2], y[0]), odd2 = hn::Mul(two, hn::MulAdd(four, y[3], y[1]));
    z[0] = y[0];
    z[1] = hn::Add(even, odd), z[2] = hn::Sub(even, odd);
    z[3] = hn::Add(even2, odd2), z[4] = hn::Sub(even2, odd2);
    z[5] = y[3];
  }
};

// G w, 3 to 6.
struct FilterTransform {
  static constexpr int kFrom = kTaps, kTo = kIn;
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void apply(D d, const V* w, V* u) {
    const V sixth = hn::Set(d, 1.0f / 6), quarter = hn::Set(d, 0.25f);
    const V even = hn::Mul(sixth, hn::Add(w[0], w[2])), odd = hn::Mul(sixth, w[1]);
    const V even2 = hn::Mul(sixth, hn::MulAdd(quarter, w[0], w[2])), odd2 = hn::Mul(hn::Set(d, 0.5f), odd);
    u[0] = hn::Mul(quarter, w[0]);
    u[1] = hn::Neg(hn::Add(even, odd)), u[2] = hn::Sub(odd, even);
    u[3] = hn::Add(even2, odd2), u[4] = hn::Sub(even2, odd2);
    u[5] = w[2];
  }
};

// G' u, 6 to 3.
struct FilterGradientTransform {
  static constexpr int kFrom = kIn, kTo = kTaps;
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE void apply(D d, const V* u, V* w) {
    const V sixth = hn::Set(d, 1.0f / 6), quarter = hn::Set(d, 0.25f);
    const V sum1 = hn::Add(u[1], u[2]), sum2 = hn::Add(u[3], u[4]);
    const V difference1 = hn::Sub(u[2], u[1]), difference2 = hn::Sub(u[3], u[4]);
    w[0] = hn::MulAdd(quarter, u[0], hn::Mul(sixth, hn::NegMulAdd(hn::Set(d, 1.0f), sum1, hn::Mul(quarter, sum2))));
    w[1] = hn::Mul(sixth, hn::MulAdd(hn::Set(d, 0.5f), difference2, difference1));
    w[2] = hn::MulAdd(sixth, hn::Sub(sum2, sum1), u[5]);
  }
};

/// M x M' of a square x: columns first, then rows.
template <class M, class D, class V = hn::Vec<D>>
HWY_INLINE void transform(D d, const V (&x)[M::kFrom][M::kFrom], V (&y)[M::kTo][M::kTo]) {
  V half[M::kFrom][M::kTo];  // half[j]: column j of M x
  for (int j = 0; j < M::kFrom; ++j) {
    V column[M::kFrom];
    for (int i = 0; i < M::kFrom; ++i) column[i] = x[i][j];
    M::apply(d, column, half[j]);
  }
  for (int i = 0; i < M::kTo; ++i) {
    V row[M::kFrom];
    for (int j = 0; j < M::kFrom; ++j) row[j] = half[j][i];
    M::apply(d, row, y[i]);
  }
}

// --- squares of pixels ---

// Images [N,H,W,C] cut into squares of kSide x kSide pixels, which begin at `first` and every 4 pixels.
template <int kSide>
struct Squares {
  float* data;
  std::int64_t H, W, C, rows, columns, first;  // rows and columns of squares in an image

  // The pixels of square t; those outside the image are at `outside`.
  HWY_INLINE void locate(std::int64_t t, float* outside, float* (&at)[kSide][kSide]) const {
    const std::int64_t h0 = t / columns % rows * kOut + first, w0 = t % columns * kOut + first;
    float* image = data + t / columns / rows * H * W * C;
    for (int i = 0; i < kSide; ++i) {
      for (int j = 0; j < kSide; ++j) {
        const std::int64_t h = h0 + i, w = w0 + j;
        at[i][j] = h >= 0 && h < H && w >= 0 && w < W ? image + (h * W + w) * C : outside;
      }
    }
  }
};

template <int kSide>
Squares<kSide> squares_of(const Tensor& images, const Tensor& target, std::int64_t first) {
  return {const_cast<float*>(images.data<float>()),
          images.size(1),
          images.size(2),
          images.size(3),
          tile_count(target.size(1), kOut),
          tile_count(target.size(2), kOut),
          first};
}

// Transformed squares of one block: places [36], squares, channels, with some room between.
struct Places {
  std::int64_t row, place;  // from a square to the next, from a place to the next

  Places(std::int64_t squares, std::int64_t channels)
      : row((channels + kLine - 1) / kLine * kLine + kLine), place(squares * row + kLine) {}
  std::size_t size() const { return static_cast<std::size_t>(kPlaces * place); }
};

// M x M' of the squares [begin, end), all channels.
template <class M>
void transform_squares(const Squares<M::kFrom>& from, std::int64_t begin, std::int64_t end, float* zeros,
                       const Places& places, float* to) {
  float* at[M::kFrom][M::kFrom];
  for (std::int64_t t = begin; t < end; ++t, to += places.row) {
    from.locate(t, zeros, at);
    for_channels(Wide<float>(), 0, from.C, [&](auto d, std::int64_t c) HWY_ATTR {
      hn::Vec<decltype(d)> x[M::kFrom][M::kFrom], y[M::kTo][M::kTo];
      for (int i = 0; i < M::kFrom; ++i) {
        for (int j = 0; j < M::kFrom; ++j) x[i][j] = hn::LoadU(d, at[i][j] + c);
      }
      transform<M>(d, x, y);
      for (int i = 0; i < kPlaces; ++i) hn::StoreU(y[i / kIn][i % kIn], d, to + i * places.place + c);
    });
  }
}

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

// Squares of a block: as many as make their transforms about as large as what they are multiplied with, or what they
// are summed to; then neither of the two travels much more often than the other.
std::int64_t block_squares(std::int64_t in, std::int64_t out) {
  return round_up(std::clamp<std::int64_t>(in * out / (in + out), kLeastSquares, kMostSquares), kRows);
}

// --- forward and data gradient ---

// `target` is y and `source` x; for the data gradient they are dx and dy, the kernel is flipped and its channels are
// exchanged.
class Winograd {
 public:
  Winograd(const Tensor& source, const Tensor& w, const Tensor& b, const Conv2dOptions& o, bool gradient,
           Tensor& target)
      : gradient_(gradient),
        source_(squares_of<kIn>(source, target, gradient ? o.padding - 2 : -o.padding)),
        target_(squares_of<kOut>(target, target, 0)),
        squares_(target.size(0) * target_.rows * target_.columns),
        panels_(tile_count(target_.C, columns_)),
        filters_(static_cast<std::size_t>(panels_ * panel_size())),
        start_(static_cast<std::size_t>(panels_ * columns_)),
        zeros_(static_cast<std::size_t>(std::max(source_.C, columns_))) {
    std::fill_n(zeros_.data(), zeros_.size(), 0.0f);
    std::fill_n(start_.data(), start_.size(), 0.0f);
    if (b) std::copy_n(b.data<float>(), target_.C, start_.data());
    pack_filters(w);
  }

  void run() {
    const std::int64_t block = block_squares(source_.C, target_.C);
    parallel_for(squares_, block, [&](std::int64_t begin, std::int64_t end) HWY_ATTR { run_block(begin, end, block); });
  }

 private:
  std::int64_t panel_size() const { return kPlaces * source_.C * columns_; }

  // filters_ [panel][place][source channel][columns] = G w G'; channels beyond the last are zero.
  void pack_filters(const Tensor& w) {
    if (target_.C % columns_ != 0) {
      std::fill_n(filters_.data() + (panels_ - 1) * panel_size(), panel_size(), 0.0f);
    }
    const std::int64_t O = w.size(0), C = w.size(3);
    parallel_for(O, columns_, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      for (std::int64_t out = begin; out < end; ++out) pack_filter(w.data<float>() + out * kTaps * kTaps * C, out, C);
    });
  }

  void pack_filter(const float* w, std::int64_t out, std::int64_t C) {
    const std::int64_t step = gradient_ ? 1 : columns_;
    for_channels(Wide<float>(), 0, C, [&](auto d, std::int64_t c) HWY_ATTR {
      hn::Vec<decltype(d)> taps[kTaps][kTaps], u[kIn][kIn];
      for (int k = 0; k < kTaps * kTaps; ++k) {
        const int from = gradient_ ? kTaps * kTaps - 1 - k : k;
        taps[k / kTaps][k % kTaps] = hn::LoadU(d, w + from * C + c);
      }
      transform<FilterTransform>(d, taps, u);
      const std::int64_t source = gradient_ ? out : c;
      const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
      HWY_ALIGN float values[HWY_MAX_BYTES / sizeof(float)];
      for (int i = 0; i < kPlaces; ++i) {
        hn::Store(u[i / kIn][i % kIn], d, values);
        for (std::int64_t l = 0; l < lanes; ++l) {
          const std::int64_t target = gradient_ ? c + l : out;
          float* place = filters_.data() + target / columns_ * panel_size() + (i * source_.C + source) * columns_;
          place[gradient_ ? target % columns_ : l * step + target % columns_] = values[l];
        }
      }
    });
  }

  void run_block(std::int64_t begin, std::int64_t end, std::int64_t block) {
    const std::int64_t group = std::max<std::int64_t>(1, kGroupColumns / columns_);
    const Places in(block, source_.C), out(block, group * columns_);
    Scratch<float> v(in.size()), m(out.size()), nowhere(static_cast<std::size_t>(round_up(target_.C, columns_)));
    transform_squares<InputTransform>(source_, begin, end, zeros_.data(), in, v.data());
    for (std::int64_t panel = 0; panel < panels_; panel += group) {
      const std::int64_t last = std::min(panels_, panel + group);
      for (std::int64_t p = panel; p < last; ++p) {
        multiply_panel(p, end - begin, in, v.data(), out, m.data() + (p - panel) * columns_);
      }
      write_squares(begin, end, panel * columns_, std::min(target_.C, last * columns_), nowhere.data(), out, m.data());
    }
  }

  // For every place, the transformed squares times one panel of filters.
  void multiply_panel(std::int64_t panel, std::int64_t squares, const Places& in, const float* v, const Places& out,
                      float* m) const {
    const std::int64_t width = std::min(columns_, target_.C - panel * columns_);
    const int vectors = static_cast<int>(tile_count(width, static_cast<std::int64_t>(hn::Lanes(Wide<float>()))));
    const Run run{0, 0, source_.C};
    for (int i = 0; i < kPlaces; ++i) {
      const float* filters = filters_.data() + panel * panel_size() + i * source_.C * columns_;
      for (std::int64_t t = 0; t < squares; t += kRows) {
        const float* a[kRows];
        float* c[kRows];
        for (int r = 0; r < kRows; ++r) {  // squares beyond the last repeat one
          a[r] = v + i * in.place + std::min(t + r, squares - 1) * in.row;
          c[r] = m + i * out.place + (t + r) * out.row;
        }
        multiply_block(vectors, a, 1, filters, columns_, &run, &run + 1, zeros_.data(), c);
      }
    }
  }

  // A' m A and the bias for the channels [first, last).
  void write_squares(std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t last, float* nowhere,
                     const Places& places, const float* m) const {
    float* at[kOut][kOut];
    for (std::int64_t t = begin; t < end; ++t, m += places.row) {
      target_.locate(t, nowhere, at);
      for_channels(Wide<float>(), first, last, [&](auto d, std::int64_t c) HWY_ATTR {
        hn::Vec<decltype(d)> x[kIn][kIn], y[kOut][kOut];
        for (int i = 0; i < kPlaces; ++i) x[i / kIn][i % kIn] = hn::LoadU(d, m + i * places.place + c - first);
        transform<OutputTransform>(d, x, y);
        const auto start = hn::LoadU(d, start_.data() + c);
        for (int i = 0; i < kOut * kOut; ++i) {
          hn::StoreU(hn::Add(y[i / kOut][i % kOut], start), d, at[i / kOut][i % kOut] + c);
        }
      });
    }
  }

  const std::int64_t columns_ = block_columns<float>();
  const bool gradient_;
  const Squares<kIn> source_;
  const Squares<kOut> target_;
  const std::int64_t squares_, panels_;
  mutable Scratch<float> filters_, start_, zeros_;
};

// --- filter gradient ---

class WinogradFilter {
 public:
  WinogradFilter(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw)
      : x_(squares_of<kIn>(x, dy, -o.padding)),
        dy_(squares_of<kOut>(dy, dy, 0)),
        squares_(dy.size(0) * dy_.rows * dy_.columns),
        row_(round_up(dy_.C, block_columns<float>())),
        sums_size_(kPlaces * x_.C * row_),
        block_(block_squares(x_.C, dy_.C)),
        zeros_(static_cast<std::size_t>(std::max(x_.C, dy_.C))),
        dw_(dw.data<float>()) {
    std::fill_n(zeros_.data(), zeros_.size(), 0.0f);
    const std::int64_t bytes = sums_size_ * static_cast<std::int64_t>(sizeof(float));
    const std::int64_t parts = std::clamp<std::int64_t>(kPartsBytes / bytes, kLeastParts, kMostParts);
    part_ = round_up(tile_count(squares_, parts), block_);
  }

  void run() {
    const std::int64_t parts = tile_count(squares_, part_);
    Scratch<float> sums(static_cast<std::size_t>(parts * sums_size_));
    parallel_for(squares_, part_, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      add_part(begin, end, sums.data() + begin / part_ * sums_size_);
    });
    add_sums(sums.data(), parts);
  }

 private:
  static constexpr std::int64_t kPartsBytes = 32 << 20, kLeastParts = 4, kMostParts = 32;

  // Squares [begin, end) into one partial sum [place][x channel][dy channel].
  void add_part(std::int64_t begin, std::int64_t end, float* sums) {
    std::fill_n(sums, sums_size_, 0.0f);
    const Places px(block_, x_.C), pdy(block_, row_);
    Scratch<float> v(px.size()), z(pdy.size());
    std::fill_n(z.data(), z.size(), 0.0f);  // also what lies beyond the last channel
    for (std::int64_t t = begin; t < end; t += block_) {
      const std::int64_t last = std::min(end, t + block_);
      transform_squares<InputTransform>(x_, t, last, zeros_.data(), px, v.data());
      transform_squares<OutputGradientTransform>(dy_, t, last, zeros_.data(), pdy, z.data());
      for (int i = 0; i < kPlaces; ++i) {
        add_place(last - t, px, v.data() + i * px.place, pdy, z.data() + i * pdy.place, sums + i * x_.C * row_);
      }
    }
  }

  // sums [x channel][dy channel] += v' z over the squares of one block.
  void add_place(std::int64_t squares, const Places& px, const float* v, const Places& pdy, const float* z,
                 float* sums) const {
    const std::int64_t columns = block_columns<float>(), lanes = static_cast<std::int64_t>(hn::Lanes(Wide<float>()));
    const Run run{0, 0, squares};
    HWY_ALIGN float spare[kVectors * HWY_MAX_BYTES / sizeof(float)] = {};
    for (std::int64_t j = 0; j < dy_.C; j += columns) {
      const int vectors = static_cast<int>(tile_count(std::min(columns, dy_.C - j), lanes));
      for (std::int64_t s = 0; s < x_.C; s += kRows) {
        const float* a[kRows];
        float* c[kRows];
        for (int r = 0; r < kRows; ++r) {  // channels beyond the last repeat one, and go nowhere
          a[r] = v + std::min(s + r, x_.C - 1);
          c[r] = s + r < x_.C ? sums + (s + r) * row_ + j : spare;
        }
        multiply_block<float>(vectors, a, px.row, z + j, pdy.row, &run, &run + 1, nullptr, c);
      }
    }
  }

  // dw += G' (the partial sums, in order) G.
  void add_sums(const float* sums, std::int64_t parts) const {
    parallel_for(dy_.C, block_columns<float>(), [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      for (std::int64_t c = 0; c < x_.C; ++c) {
        for_channels(Wide<float>(), begin, end, [&](auto d, std::int64_t out) HWY_ATTR {
          hn::Vec<decltype(d)> u[kIn][kIn], w[kTaps][kTaps];
          for (int i = 0; i < kPlaces; ++i) {
            const float* part = sums + (i * x_.C + c) * row_ + out;
            auto sum = hn::LoadU(d, part);
            for (std::int64_t p = 1; p < parts; ++p) sum = hn::Add(sum, hn::LoadU(d, part + p * sums_size_));
            u[i / kIn][i % kIn] = sum;
          }
          transform<FilterGradientTransform>(d, u, w);
          HWY_ALIGN float values[HWY_MAX_BYTES / sizeof(float)];
          for (int k = 0; k < kTaps * kTaps; ++k) {
            hn::Store(w[k / kTaps][k % kTaps], d, values);
            for (std::int64_t l = 0; l < static_cast<std::int64_t>(hn::Lanes(d)); ++l) {
              dw_[((out + l) * kTaps * kTaps + k) * x_.C + c] += values[l];
            }
          }
        });
      }
    });
  }

  const Squares<kIn> x_;
  const Squares<kOut> dy_;
  const std::int64_t squares_, row_, sums_size_, block_;
  Scratch<float> zeros_;
  float* dw_;
  std::int64_t part_;  // squares of a partial sum
};

void WinogradForward(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y) {
  Winograd(x, w, b, o, false, y).run();
}
void WinogradBackwardData(const Tensor& dy, const Tensor& w, const Conv2dOptions& o, Tensor& dx) {
  Winograd(dy, w, Tensor(), o, true, dx).run();
}
void WinogradBackwardFilter(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw) {
  WinogradFilter(dy, x, o, dw).run();
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(WinogradForward);
HWY_EXPORT(WinogradBackwardData);
HWY_EXPORT(WinogradBackwardFilter);

void winograd_forward(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y) {
  HWY_DYNAMIC_DISPATCH(WinogradForward)(x, w, b, o, y);
}
void winograd_backward_data(const Tensor& dy, const Tensor& w, const Conv2dOptions& o, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(WinogradBackwardData)(dy, w, o, dx);
}
void winograd_backward_filter(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw) {
  HWY_DYNAMIC_DISPATCH(WinogradBackwardFilter)(dy, x, o, dw);
}

// Multiplications by one filter for an image: of the direct sum, which leaves out the padding, and of the squares with
// about a quarter more for their transforms; and what transforming a filter costs, in multiplications.
bool winograd_suits(const Tensor& source, const Tensor& w, const Conv2dOptions& o, const Tensor& target) {
  constexpr std::int64_t kLeastChannels = 16, kFilterTransform = 200;
  if (source.dtype() != Dtype::float32 || w.size(1) != 3 || w.size(2) != 3) return false;
  if (o.stride != 1 || o.dilation != 1 || o.groups != 1) return false;
  if (source.size(3) < kLeastChannels || target.size(3) < kLeastChannels) return false;
  const auto taps = [](std::int64_t from, std::int64_t to) { return 3 * std::min(from, to) - (from == to ? 2 : 0); };
  const std::int64_t direct = taps(source.size(1), target.size(1)) * taps(source.size(2), target.size(2));
  const std::int64_t squares = (target.size(1) + 3) / 4 * ((target.size(2) + 3) / 4);
  return target.size(0) * (direct - squares * 45) > kFilterTransform;
}

}  // namespace dattn
#endif
