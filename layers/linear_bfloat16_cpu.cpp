// CPU kernels of linear layers by tile blocks of bfloat16. Rows of x are the rows of tiles as they lie; weights are
// packed into tiles once. In the weight gradient sums run over rows: pairs of rows of x are interleaved into tiles,
// pairs of rows of dy turned over.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/linear_bfloat16_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "core/memory.h"
#include "core/parallel.h"
#include "core/partial_sums.h"
#include "core/simd.h"
#include "core/tile_block.h"
#include "layers/linear_bfloat16.h"
#include "layers/tile_packing-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

constexpr std::int64_t kTile = kTileSide * kTileDepth;  // numbers of a tile of B

// --- forward and data gradient ---

// op(w) [k,n] in panels of columns, zeros beyond the last one.
class PackedWeights {
 public:
  PackedWeights(const Tensor& w, bool transposed, std::int64_t k, std::int64_t n)
      : k_(k), panels_(tile_count(n, kPanel)), data_(static_cast<std::size_t>(panels_ * k * kPanel)) {
    const float* from = w.data<float>();
    parallel_for(panels_, 1, [&](std::int64_t panel, std::int64_t) {
      const auto weight = [&](std::int64_t i, std::int64_t c) {
        const std::int64_t j = panel * kPanel + c;
        return j < n ? from[transposed ? j * k + i : i * n + j] : 0.0f;
      };
      pack_panel(k, weight, data_.data() + panel * k * kPanel);
    });
  }

  std::int64_t panels() const { return panels_; }
  const bfloat16* panel(std::int64_t i) { return data_.data() + i * k_ * kPanel; }

 private:
  std::int64_t k_, panels_;
  Scratch<bfloat16> data_;
};

// y [rows,n] = x [rows,k] op(w) + b.
void multiply(const Tensor& x, const Tensor& w, bool transposed, const Tensor& b, Tensor& y) {
  constexpr std::int64_t kTogether = 3 * kPanel;
  const std::int64_t rows = x.shape().rows(), k = x.size(-1), n = y.size(-1), steps = k / kTileDepth;
  PackedWeights weights(w, transposed, k, n);
  const std::int64_t width = weights.panels() * kPanel;
  Scratch<std::int64_t> offsets(static_cast<std::size_t>(steps));
  for (std::int64_t s = 0; s < steps; ++s) offsets.data()[s] = s * kTileDepth;
  const TileBlockFunction block = tile_block();
  const bfloat16* px = x.data<bfloat16>();
  bfloat16* py = y.data<bfloat16>();
  const float* bias = b ? b.data<float>() : nullptr;
  parallel_for(rows, kTogether, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
    Scratch<float> sums(static_cast<std::size_t>(kPanel * width));
    Scratch<bfloat16> last(static_cast<std::size_t>(kPanel * k));
    for (std::int64_t r = begin; r < end; r += kPanel) {
      const std::int64_t here = std::min(kPanel, end - r);
      const bfloat16* a = px + r * k;
      if (here < kPanel) {  // fewer rows than a block has
        std::fill(std::copy_n(a, here * k, last.data()), last.data() + last.size(), bfloat16());
        a = last.data();
      }
      for (std::int64_t p = 0; p < weights.panels(); ++p) {
        block({2, 2, a, k, offsets.data(), weights.panel(p), kTileDepth, kTile, 2 * kTile, steps,
               sums.data() + p * kPanel, width, false});
      }
      for (std::int64_t i = 0; i < here; ++i) store_sums(sums.data() + i * width, bias, n, py + (r + i) * n);
    }
  });
}

// --- weight gradient ---

// dw [out,in] += dy' x, over stretches of rows.
class Bfloat16WeightGradient {
 public:
  Bfloat16WeightGradient(const Tensor& dy, const Tensor& x, Tensor& dw)
      : rows_(dy.shape().rows()),
        out_(dw.size(0)),
        in_(dw.size(1)),
        height_(round_up(out_, kPanel)),
        width_(round_up(in_, kPanel)),
        dy_(dy.data<bfloat16>()),
        x_(x.data<bfloat16>()),
        dw_(dw.data<float>()) {}

  void run() const {
    PartialSums<float> sums(rows_, part_length(rows_, kStretch, kMostParts), height_ * width_);
    sums.gather([&](std::int64_t begin, std::int64_t end, float* sum) HWY_ATTR { add_rows(begin, end, sum); });
    sums.add_to(dw_, out_, in_, width_);
  }

 private:
  static constexpr std::int64_t kStretch = 4 * kTileDepth, kPairs = kStretch / 2, kMostParts = 32;

  void add_rows(std::int64_t begin, std::int64_t end, float* sum) const {
    Scratch<std::uint32_t> x(static_cast<std::size_t>(kPairs * width_)), dy(static_cast<std::size_t>(kPairs * height_)),
        turned(dy.size());
    for (auto* pairs : {&x, &dy}) std::fill_n(pairs->data(), pairs->size(), 0u);  // what lies beyond the last column
    for (std::int64_t r = begin; r < end; r += kStretch) {
      const std::int64_t rows = std::min(kStretch, end - r), pairs = round_up(rows, kTileDepth) / 2;
      interleave_rows(x_ + r * in_, rows, in_, width_, x.data());
      interleave_rows(dy_ + r * out_, rows, out_, height_, dy.data());
      for (auto [data, step] : {std::pair(x.data(), width_), std::pair(dy.data(), height_)}) {
        std::fill(data + (rows + 1) / 2 * step, data + pairs * step, 0u);
      }
      transpose_pairs(dy.data(), pairs, height_, turned.data(), kPairs);
      multiply(turned.data(), x.data(), 2 * pairs / kTileDepth, sum);
    }
  }

  // sum += the products of dy, turned over [out][pairs], with x [pairs][in].
  void multiply(const std::uint32_t* dy, const std::uint32_t* x, std::int64_t steps, float* sum) const {
    std::int64_t offsets[kStretch / kTileDepth];
    for (std::int64_t s = 0; s < steps; ++s) offsets[s] = s * kTileDepth;
    const TileBlockFunction block = tile_block();
    for (std::int64_t i = 0; i < width_; i += kPanel) {
      for (std::int64_t o = 0; o < height_; o += kPanel) {
        block({2, 2, as_numbers(dy + o * kPairs), kStretch, offsets, as_numbers(x + i), 2 * width_, kTileDepth,
               kTileSide * 2 * width_, steps, sum + o * width_ + i, width_, true});
      }
    }
  }

  const std::int64_t rows_, out_, in_, height_, width_;
  const bfloat16 *dy_, *x_;
  float* dw_;
};

void LinearBfloat16Forward(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y) { multiply(x, w, true, b, y); }
void LinearBfloat16BackwardData(const Tensor& dy, const Tensor& w, Tensor& dx) { multiply(dy, w, false, Tensor(), dx); }
void LinearBfloat16BackwardWeight(const Tensor& dy, const Tensor& x, Tensor& dw) {
  Bfloat16WeightGradient(dy, x, dw).run();
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(LinearBfloat16Forward);
HWY_EXPORT(LinearBfloat16BackwardData);
HWY_EXPORT(LinearBfloat16BackwardWeight);

void linear_bfloat16_forward(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y) {
  HWY_DYNAMIC_DISPATCH(LinearBfloat16Forward)(x, w, b, y);
}
void linear_bfloat16_backward_data(const Tensor& dy, const Tensor& w, Tensor& dx) {
  HWY_DYNAMIC_DISPATCH(LinearBfloat16BackwardData)(dy, w, dx);
}
void linear_bfloat16_backward_weight(const Tensor& dy, const Tensor& x, Tensor& dw) {
  HWY_DYNAMIC_DISPATCH(LinearBfloat16BackwardWeight)(dy, x, dw);
}

bool linear_bfloat16_suits(const Tensor& x) {
  constexpr std::int64_t kLeastRows = 64;
  return x.dtype() == Dtype::bfloat16 && x.size(-1) % kTileDepth == 0 && x.shape().rows() > kLeastRows && tile_block();
}

bool linear_weight_bfloat16_suits(const Tensor& dy, const Tensor& x) {
  constexpr std::int64_t kLeastRows = 1024, kLeastColumns = 16;
  return dy.dtype() == Dtype::bfloat16 && x.dtype() == Dtype::bfloat16 && dy.shape().rows() >= kLeastRows &&
         std::min(dy.size(-1), x.size(-1)) >= kLeastColumns && tile_block();
}

}  // namespace dattn
#endif
