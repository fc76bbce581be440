// CPU kernels of the convolution and its data gradient, without rearranging the image: blocks of pixels that meet the
// same taps of the kernel, times the filters packed into panels of output channels. Taps in the padding are not
// computed.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/conv2d_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "core/parallel.h"
#include "core/simd.h"
#include "layers/conv2d.h"
#include "layers/conv2d_bfloat16.h"
#include "layers/conv2d_few_pixels.h"
#include "layers/conv2d_taps.h"
#include "layers/multiply_block-inl.h"
#include "layers/winograd.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// The places along one side that meet the same taps, whose sources then lie equally far apart.
struct Band {
  struct Place {
    std::int32_t target, source;  // the source is that of the first tap
  };
  PoolVector<Place> places;         // by ascending target
  std::span<const Taps::Tap> taps;  // of the first place
};

PoolVector<Band> bands_of(const Taps& taps) {
  PoolVector<Band> bands;
  for (std::int64_t t = 0; t < taps.targets(); ++t) {
    const auto of_t = taps.of(t);
    const auto same = [&](const Band& band) {
      return std::equal(band.taps.begin(), band.taps.end(), of_t.begin(), of_t.end(),
                        [](Taps::Tap a, Taps::Tap b) { return a.k == b.k; });
    };
    auto band = std::find_if(bands.begin(), bands.end(), same);
    if (band == bands.end()) band = bands.insert(bands.end(), Band{{}, of_t});
    band->places.push_back({static_cast<std::int32_t>(t), of_t.empty() ? 0 : of_t[0].source});
  }
  return bands;
}

// Images [n_begin, n_end) and rows [row_begin, row_end) of each.
struct Region {
  std::int64_t n_begin, n_end, row_begin, row_end;
};

// Some output channels of one group, as a block's columns.
template <typename T>
struct Panel {
  const T *filters, *start;
  std::int64_t source_channel, target_channel;  // the group's first input; the panel's first output
  std::int64_t width;
  int vectors;
};

// Pixels that are gathered until they fill a block.
template <typename T>
class Pixels {
 public:
  Pixels(const Panel<T>& panel, const Run* run, const Run* end)
      : panel_(panel),
        run_(run),
        end_(end),
        columns_(block_columns<T>()),
        whole_(panel.width == panel.vectors * static_cast<std::int64_t>(hn::Lanes(Wide<T>()))) {}

  HWY_INLINE void add(const T* source, T* target) {
    source_[count_] = source, target_[count_] = target;
    if (++count_ == kRows) multiply();
  }

  // A block with rows to spare computes the first pixel again in them; what is to spare, rows or columns, goes nowhere.
  void finish() {
    if (count_ > 0) multiply();
  }

 private:
  HWY_INLINE void multiply() {
    T* c[kRows];
    for (int m = 0; m < kRows; ++m) {
      if (m >= count_) source_[m] = source_[0];
      c[m] = m < count_ && whole_ ? target_[m] : spare_ + m * columns_;
    }
    multiply_block(panel_.vectors, source_, 1, panel_.filters, columns_, run_, end_, panel_.start, c);
    for (int m = 0; m < count_ && !whole_; ++m) std::copy_n(c[m], panel_.width, target_[m]);
    count_ = 0;
  }

  const Panel<T>& panel_;
  const Run *const run_, *const end_;
  const std::int64_t columns_;
  const bool whole_;
  int count_ = 0;
  const T* source_[kRows];
  T* target_[kRows];
  HWY_ALIGN T spare_[kRows * kVectors * HWY_MAX_BYTES / sizeof(T)];
};

// One convolution with stride: `target` is y and `source` x. For the data gradient they are dx and dy, the kernel is
// flipped and its channels are exchanged. Cs and Ct count the channels of one group.
template <typename T>
class Convolution {
 public:
  Convolution(const Tensor& source, const Tensor& w, const Tensor& b, const Conv2dOptions& o, bool gradient,
              Tensor& target)
      : source_(source.data<T>()),
        target_(target.data<T>()),
        N_(source.size(0)),
        H_(source.size(1)),
        W_(source.size(2)),
        Ht_(target.size(1)),
        Wt_(target.size(2)),
        G_(o.groups),
        Cs_(source.size(3) / G_),
        Ct_(target.size(3) / G_),
        Kw_(w.size(2)),
        taps_(w.size(1) * Kw_),
        panels_(tile_count(Ct_, columns_)),
        row_taps_(Ht_, H_, w.size(1), o, gradient),
        column_taps_(Wt_, W_, Kw_, o, gradient),
        rows_(bands_of(row_taps_)),
        cols_(bands_of(column_taps_)),
        filters_(static_cast<std::size_t>(G_ * panels_ * taps_ * Cs_ * columns_)),
        start_(static_cast<std::size_t>(G_ * panels_ * columns_)) {
    pack_filters(w.data<T>(), gradient);
    pack_start(b ? b.data<T>() : nullptr);
    for (const Band& rows : rows_) {
      for (const Band& cols : cols_) add_runs(rows.taps, cols.taps);
    }
  }

  // Tiles whose source fits the L2 cache, of all panels; panel by panel where tiles are few.
  void run() {
    const std::int64_t bytes = std::max<std::int64_t>(1, H_ * W_ * G_ * Cs_ * static_cast<std::int64_t>(sizeof(T)));
    std::int64_t images = std::clamp<std::int64_t>(kTileBytes / bytes, 1, 4 * kRows);
    if (images > kRows) images -= images % kRows;  // so that the corners of all images fill whole blocks
    const std::int64_t rows = std::max<std::int64_t>(1, bytes <= kTileBytes ? Ht_ : kTileBytes * Ht_ / bytes);
    const std::int64_t heights = tile_count(Ht_, rows), tiles = tile_count(N_, images) * heights;
    const std::int64_t panels = tiles >= kFewTiles ? G_ * panels_ : 1, parts = tile_count(G_ * panels_, panels);
    parallel_for(tiles * parts, 1, [&](std::int64_t i, std::int64_t) HWY_ATTR {
      const std::int64_t n = i / parts / heights * images, row = i / parts % heights * rows, panel = i % parts * panels;
      const Region tile = {n, std::min(N_, n + images), row, std::min(Ht_, row + rows)};
      for (std::int64_t p = panel; p < panel + panels; ++p) run_panel(tile, p);
    });
  }

 private:
  static constexpr std::int64_t kTileBytes = 384 << 10, kFewTiles = 64;

  // filters_ [G][panel][tap][Cs][columns]; channels beyond the last are zero.
  void pack_filters(const T* w, bool gradient) {
    parallel_for(G_ * panels_, 1, [&](std::int64_t i, std::int64_t) {
      const std::int64_t g = i / panels_, first = i % panels_ * columns_;
      T* to = filters_.data() + i * taps_ * Cs_ * columns_;
      const std::int64_t width = std::min(columns_, Ct_ - first);
      if (width < columns_) std::fill_n(to, taps_ * Cs_ * columns_, T(0));
      for (std::int64_t k = 0; k < taps_; ++k, to += Cs_ * columns_) {
        if (gradient) {
          const T* from = w + (g * Cs_ * taps_ + taps_ - 1 - k) * Ct_ + first;
          for (std::int64_t s = 0; s < Cs_; ++s) std::copy_n(from + s * taps_ * Ct_, width, to + s * columns_);
        } else {
          const T* from = w + ((g * Ct_ + first) * taps_ + k) * Cs_;
          for (std::int64_t j = 0; j < width; ++j) {
            for (std::int64_t s = 0; s < Cs_; ++s) to[s * columns_ + j] = from[j * taps_ * Cs_ + s];
          }
        }
      }
    });
  }

  // start_ [G][panel][columns]: the bias, or zeros.
  void pack_start(const T* b) {
    std::fill_n(start_.data(), start_.size(), T(0));
    for (std::int64_t i = 0; b && i < G_ * Ct_; ++i) start_.data()[i / Ct_ * panels_ * columns_ + i % Ct_] = b[i];
  }

  // The runs of the pixels in one band of rows and one of columns. Taps are one run where their channels are
  // neighbours.
  void add_runs(std::span<const Taps::Tap> rows, std::span<const Taps::Tap> cols) {
    const std::size_t first = runs_.size();
    for (const auto& row : rows) {
      for (const auto& col : cols) {
        const std::int64_t a = ((row.source - rows[0].source) * W_ + col.source - cols[0].source) * G_ * Cs_;
        const std::int64_t b = (row.k * Kw_ + col.k) * Cs_ * columns_;
        Run* last = runs_.size() > first ? &runs_.back() : nullptr;
        if (last && last->a + last->length == a && last->b + last->length * columns_ == b) {
          last->length += Cs_;
        } else {
          runs_.push_back({a, b, Cs_});
        }
      }
    }
    runs_end_.push_back(runs_.size());
  }

  void run_panel(const Region& tile, std::int64_t i) {
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(Wide<T>()));
    const std::int64_t group = i / panels_, first = i % panels_ * columns_, width = std::min(columns_, Ct_ - first);
    const Panel<T> panel = {filters_.data() + i * taps_ * Cs_ * columns_,
                            start_.data() + i * columns_,
                            group * Cs_,
                            group * Ct_ + first,
                            width,
                            static_cast<int>(tile_count(width, lanes))};
    const Run* run = runs_.data();
    const std::size_t* end = runs_end_.data();
    for (const Band& rows : rows_) {
      for (const Band& cols : cols_) {
        Pixels<T> pixels(panel, run, runs_.data() + *end);
        run_bands(tile, panel, rows, cols, pixels);
        run = runs_.data() + *end++;
      }
    }
  }

  void run_bands(const Region& tile, const Panel<T>& panel, const Band& rows, const Band& cols,
                 Pixels<T>& pixels) const {
    const auto before = [](const Band::Place& place, std::int64_t row) { return place.target < row; };
    const auto first = std::lower_bound(rows.places.begin(), rows.places.end(), tile.row_begin, before);
    const auto last = std::lower_bound(first, rows.places.end(), tile.row_end, before);
    for (std::int64_t n = tile.n_begin; n < tile.n_end; ++n) {
      for (auto row = first; row < last; ++row) {
        const T* source = source_ + (n * H_ + row->source) * W_ * G_ * Cs_ + panel.source_channel;
        T* target = target_ + (n * Ht_ + row->target) * Wt_ * G_ * Ct_ + panel.target_channel;
        for (const auto& col : cols.places) pixels.add(source + col.source * G_ * Cs_, target + col.target * G_ * Ct_);
      }
    }
    pixels.finish();
  }

  const std::int64_t columns_ = block_columns<T>();
  const T* source_;
  T* target_;
  const std::int64_t N_, H_, W_, Ht_, Wt_, G_, Cs_, Ct_, Kw_, taps_, panels_;
  const Taps row_taps_, column_taps_;
  const PoolVector<Band> rows_, cols_;
  PoolVector<Run> runs_;              // of all pairs of bands
  PoolVector<std::size_t> runs_end_;  // of each pair
  Scratch<T> filters_, start_;
};

void Conv2dForward(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y) {
  dispatch_float("conv2d", x.dtype(), [&]<typename T>() HWY_ATTR { Convolution<T>(x, w, b, o, false, y).run(); });
}
void Conv2dBackwardData(const Tensor& dy, const Tensor& w, const Conv2dOptions& o, Tensor& dx) {
  dispatch_float("conv2d", dy.dtype(),
                 [&]<typename T>() HWY_ATTR { Convolution<T>(dy, w, Tensor(), o, true, dx).run(); });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

namespace {
HWY_EXPORT(Conv2dForward);
HWY_EXPORT(Conv2dBackwardData);
void direct_forward(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y) {
  HWY_DYNAMIC_DISPATCH(Conv2dForward)(x, w, b, o, y);
}
void direct_backward_data(const Tensor& dy, const Tensor& w, const Conv2dOptions& o, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(Conv2dBackwardData)(dy, w, o, dx);
}
void forward_cpu(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& o, Tensor& y) {
  if (conv2d_bfloat16_suits(x, w, o)) return conv2d_bfloat16_forward(x, w, b, y);
  if (winograd_suits(w, o, x.shape(), y.shape())) return winograd_forward(x, w, b, o, y);
  if (few_pixels_suit(w, o, y.shape())) return few_pixels_forward(x, w, b, o, y);
  call_in_float32(direct_forward, x, w, b, o, y);
}
void backward_data_cpu(const Tensor& dy, const Tensor& w, const Conv2dOptions& o, Tensor& dx) {
  if (conv2d_bfloat16_suits(dy, w, o)) return conv2d_bfloat16_backward_data(dy, w, dx);
  if (winograd_suits(w, o, dy.shape(), dx.shape())) return winograd_backward_data(dy, w, o, dx);
  call_in_float32(direct_backward_data, dy, w, o, dx);
}
}  // namespace

constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Conv2dOptions&, Tensor&)> conv2d_forward{
    "conv2d_forward", forward_cpu, Bfloat16::native};
constinit Kernel<void(const Tensor&, const Tensor&, const Conv2dOptions&, Tensor&)> conv2d_backward_data{
    "conv2d_backward_data", backward_data_cpu, Bfloat16::native};

}  // namespace dattn
#endif
