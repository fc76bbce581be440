// CPU kernel of the filter gradient by Winograd's F(4x4, 3x3): with the matrices of winograd_cpu.cpp,
//   dw = G' [sum over squares of (A dy A') * (B' d B)] G       (3x3 taps)
// for each of the 36 places a matrix product over squares.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/winograd_filter_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>

#include "core/memory.h"
#include "core/partial_sums.h"
#include "layers/winograd.h"
#include "layers/winograd_squares-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// From the squares of dy and of x.
template <class OutputGradient, class Input>
class WinogradFilter {
 public:
  // For `images` maps of height x width outputs, before any pooling.
  WinogradFilter(const OutputGradient& dy, const Input& x, std::int64_t images, std::int64_t height, std::int64_t width,
                 Tensor& dw)
      : x_(x),
        dy_(dy),
        row_(round_up(dy_.C, block_columns<float>())),
        block_(block_squares(x_.C, dy_.C)),
        cuts_(images, height, width, block_, images >= kMixedSquareImages),
        zeros_(static_cast<std::size_t>(std::max(x_.C, dy_.C))),
        dw_(dw.data<float>()) {
    std::fill_n(zeros_.data(), zeros_.size(), 0.0f);
  }

  void run() {
    const std::int64_t size = kPlaces * x_.C * row_, bytes = size * static_cast<std::int64_t>(sizeof(float));
    const std::int64_t most = std::clamp<std::int64_t>(kPartsBytes / bytes, kLeastParts, kMostParts);
    PartialSums<float> sums(cuts_.blocks(), part_length(cuts_.blocks(), 1, most), size);
    sums.gather([&](std::int64_t begin, std::int64_t end, float* sum) HWY_ATTR { add_blocks(begin, end, sum); });
    add_sums(sums);
  }

 private:
  static constexpr std::int64_t kPartsBytes = 32 << 20, kLeastParts = 4, kMostParts = 32;

  // Blocks [begin, end) into one partial sum [place][x channel][dy channel].
  void add_blocks(std::int64_t begin, std::int64_t end, float* sums) {
    const Places px(block_, x_.C), pdy(block_, row_);
    Scratch<float> v(px.size()), z(pdy.size());
    std::fill_n(z.data(), z.size(), 0.0f);  // also what lies beyond the last channel
    for (std::int64_t index = begin; index < end; ++index) {
      const Block block = cuts_.block(index);
      transform_squares<InputTransform>(x_, block, reinterpret_cast<typename Input::Element*>(zeros_.data()), px,
                                        v.data());
      transform_squares<OutputGradientTransform>(
          dy_, block, reinterpret_cast<typename OutputGradient::Element*>(zeros_.data()), pdy, z.data());
      for_places(block.cut, [&](int i) HWY_ATTR {
        add_place(block.squares(), px, v.data() + i * px.place, pdy, z.data() + i * pdy.place, sums + i * x_.C * row_);
      });
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
  void add_sums(PartialSums<float>& sums) const {
    parallel_for(dy_.C, block_columns<float>(), [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
      for (std::int64_t c = 0; c < x_.C; ++c) {
        for_channels(Wide<float>(), begin, end, [&](auto d, std::int64_t out) HWY_ATTR {
          hn::Vec<decltype(d)> w[kTaps][kTaps];
          const auto sum_of_place = [&](int i, int j) HWY_ATTR {
            const float* part = sums.part(0) + ((i * kIn + j) * x_.C + c) * row_ + out;
            auto sum = hn::LoadU(d, part);
            for (std::int64_t p = 1; p < sums.parts(); ++p) sum = hn::Add(sum, hn::LoadU(d, part + p * sums.size()));
            return sum;
          };
          transform<FilterGradientTransform>(d, sum_of_place, [&](int i, int j, auto v) HWY_ATTR { w[i][j] = v; });
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

  const Input x_;
  const OutputGradient dy_;
  const std::int64_t row_, block_;
  const Cuts cuts_;
  Scratch<float> zeros_;
  float* dw_;
};

void WinogradBackwardFilter(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw) {
  dispatch_images(x, [&]<typename S>() HWY_ATTR {
    const auto input = squares_of<kIn, S>(x, -o.padding);
    WinogradFilter(squares_of<kOut, S>(dy, 0), input, dy.size(0), dy.size(1), dy.size(2), dw).run();
  });
}
void WinogradPoolBackwardFilter(const Tensor& dy, const Tensor& taps, const Tensor& x, Tensor& dw) {
  dispatch_images(x, [&]<typename S>() HWY_ATTR {
    const auto gradient = pooled_squares_of<kOut, 0, S>(dy, taps);
    WinogradFilter(gradient, squares_of<kIn, S>(x, -1), dy.size(0), 2 * dy.size(1), 2 * dy.size(2), dw).run();
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(WinogradBackwardFilter);
HWY_EXPORT(WinogradPoolBackwardFilter);

void winograd_backward_filter(const Tensor& dy, const Tensor& x, const Conv2dOptions& o, Tensor& dw) {
  HWY_DYNAMIC_DISPATCH(WinogradBackwardFilter)(dy, x, o, dw);
}
void winograd_pool_backward_filter(const Tensor& dy, const Tensor& taps, const Tensor& x, Tensor& dw) {
  HWY_DYNAMIC_DISPATCH(WinogradPoolBackwardFilter)(dy, taps, x, dw);
}

}  // namespace dattn
#endif
