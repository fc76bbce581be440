// CPU kernels of LayerNorm. Rows go through the L1 cache in blocks, one stage after the other: short rows have too
// little work each to hide the latency of a sum across lanes, a square root and a division.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/layernorm_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <array>

#include "core/memory.h"
#include "core/partial_sums.h"
#include "core/simd.h"
#include "layers/layernorm.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

constexpr std::int64_t kBlockRows = 64;        // at most
constexpr std::int64_t kBlockElements = 4096;  // a third of the smallest L1 cache, in floats

// Rows a tile: some 64 KiB of floats, and enough of them that merging dw and db costs little.
inline std::int64_t layernorm_tile(std::int64_t C) { return std::max<std::int64_t>(kBlockRows, kElementTile / C); }

// A row of C values as vectors. The last may reach beyond the row: what is read there is masked out of sums, and what
// is written there is written again by the next row. V is the number of vectors where it is known, else 0.
template <typename T, int V>
struct RowVectors {
  static constexpr Wide<T> d{};
  std::int64_t C, lanes, vectors;

  explicit RowVectors(std::int64_t channels)
      : C(channels), lanes(static_cast<std::int64_t>(hn::Lanes(d))), vectors(V ? V : tile_count(C, lanes)) {}

  // Rows at the end of a tile whose last vector would reach beyond the tile.
  std::int64_t rows_at_the_end() const { return tile_count(vectors * lanes - C, C); }

  // Calls f(i) with the place of every vector in the row.
  template <typename F>
  HWY_INLINE void each(F&& f) const {
    const std::int64_t n = V ? V : vectors;
    for (std::int64_t v = 0; v < n; ++v) f(v * lanes);
  }

  // Sum over the row of the vectors f(i).
  template <typename F>
  HWY_INLINE T sum(F&& f) const {
    const std::int64_t n = (V ? V : vectors) - 1;
    const auto inside = hn::FirstN(d, static_cast<std::size_t>(C - n * lanes));
    auto even = hn::IfThenElseZero(inside, f(n * lanes)), odd = hn::Zero(d);
    std::int64_t v = 0;
    for (; v + 2 <= n; v += 2) {
      even = hn::Add(even, f(v * lanes));
      odd = hn::Add(odd, f((v + 1) * lanes));
    }
    if (v < n) odd = hn::Add(odd, f(v * lanes));
    return hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
  }
};

// Calls f(in, out, n) for blocks of n consecutive rows of one tile: `in` points to the rows read, `out` to those
// written (or is null). The rows at the end go through copies with room behind them.
template <typename S, typename T, int V, std::size_t Inputs, typename F>
HWY_INLINE void for_row_blocks(const RowVectors<T, V>& row, std::int64_t rows, const std::array<const S*, Inputs>& in,
                               S* out, F&& f) {
  const std::int64_t C = row.C, inside = std::max<std::int64_t>(0, rows - row.rows_at_the_end());
  const std::int64_t block = std::clamp<std::int64_t>(kBlockElements / C, 1, kBlockRows);
  const auto at = [&](std::int64_t r) {
    auto moved = in;
    for (auto& p : moved) p += r * C;
    return moved;
  };
  for (std::int64_t r = 0; r < inside; r += block) f(at(r), out ? out + r * C : nullptr, std::min(block, inside - r));
  if (inside == rows) return;
  const std::int64_t width = row.vectors * row.lanes;
  Scratch<S> copies(static_cast<std::size_t>((Inputs + 1) * width));
  std::fill_n(copies.data(), copies.size(), S(0));
  std::array<const S*, Inputs> copied_in;
  S* copied_out = copies.data() + Inputs * width;
  for (std::int64_t r = inside; r < rows; ++r) {
    for (std::size_t k = 0; k < Inputs; ++k) {
      std::copy_n(in[k] + r * C, C, copies.data() + k * width);
      copied_in[k] = copies.data() + k * width;
    }
    f(copied_in, out ? copied_out : nullptr, 1);
    if (out) std::copy_n(copied_out, C, out + r * C);
  }
}

template <typename T>
struct BlockStatistics {
  T mean[kBlockRows], s[kBlockRows];
};

template <typename S, typename T, int V>
HWY_INLINE void block_statistics(const RowVectors<T, V>& row, const S* x, std::int64_t rows, double eps,
                                 BlockStatistics<T>& of) {
  const T n = static_cast<T>(row.C);
  for (std::int64_t r = 0; r < rows; ++r) {
    of.mean[r] = row.sum([&](std::int64_t i) HWY_ATTR { return load(row.d, x + r * row.C + i); }) / n;
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto mean = hn::Set(row.d, of.mean[r]);
    of.s[r] = row.sum([&](std::int64_t i) HWY_ATTR {
      const auto v = hn::Sub(load(row.d, x + r * row.C + i), mean);
      return hn::Mul(v, v);
    });
  }
  for_lanes<T>(rows, [&](auto d, std::int64_t r) HWY_ATTR {
    const auto var = hn::Div(hn::LoadU(d, of.s + r), hn::Set(d, n));
    hn::StoreU(hn::Div(hn::Set(d, T(1)), hn::Sqrt(hn::Add(var, hn::Set(d, static_cast<T>(eps))))), d, of.s + r);
  });
}

// w [C], with zeros up to the end of its last vector.
template <typename T, int V>
HWY_INLINE void pad_row(const RowVectors<T, V>& row, const T* w, T* padded) {
  std::fill(std::copy_n(w, row.C, padded), padded + row.vectors * row.lanes, T(0));
}

// Calls f with RowVectors for C: rows of one, two and four vectors are frequent and short.
template <typename T, typename F>
HWY_INLINE void with_row_vectors(std::int64_t C, F&& f) {
  switch (tile_count(C, static_cast<std::int64_t>(hn::Lanes(Wide<T>())))) {
    case 1:
      return f(RowVectors<T, 1>(C));
    case 2:
      return f(RowVectors<T, 2>(C));
    case 4:
      return f(RowVectors<T, 4>(C));
    default:
      return f(RowVectors<T, 0>(C));
  }
}

void LayerNormForward(const Tensor& x, const Tensor& w, const Tensor& b, double eps, Tensor& y) {
  dispatch_activations("layernorm", x.dtype(), [&]<typename S>() HWY_ATTR {
    using T = Exact<S>;
    with_row_vectors<T>(x.size(-1), [&](auto row) HWY_ATTR {
      const std::int64_t C = row.C, width = row.vectors * row.lanes;
      Scratch<T> padded(static_cast<std::size_t>(2 * width));
      T *pw = padded.data(), *pb = pw + width;
      pad_row(row, w.data<T>(), pw);
      pad_row(row, b.data<T>(), pb);
      const S* all_x = x.data<S>();
      S* all_y = y.data<S>();
      const std::int64_t tile =
          std::max<std::int64_t>(kBlockRows, 4096 / C);  // nothing to merge: small maps have several
      parallel_for(x.shape().rows(), tile, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
        for_row_blocks<S>(row, end - begin, std::array{all_x + begin * C}, all_y + begin * C,
                          [&](const auto& in, S* py, std::int64_t rows) HWY_ATTR {
                            const S* px = in[0];
                            BlockStatistics<T> of;
                            block_statistics(row, px, rows, eps, of);
                            for (std::int64_t r = 0; r < rows; ++r) {
                              const auto mean = hn::Set(row.d, of.mean[r]), s = hn::Set(row.d, of.s[r]);
                              row.each([&](std::int64_t i) HWY_ATTR {
                                const auto xhat = hn::Mul(hn::Sub(load(row.d, px + r * C + i), mean), s);
                                store(hn::MulAdd(xhat, hn::LoadU(row.d, pw + i), hn::LoadU(row.d, pb + i)), row.d,
                                      py + r * C + i);
                              });
                            }
                          });
      });
    });
  });
}

// A block of rows: writes dx unless it is null, adds to dw and db.
template <typename S, typename T, int V>
HWY_INLINE void backward_block(const RowVectors<T, V>& row, const S* dy, const S* x, const T* w, std::int64_t rows,
                               double eps, S* dx, T* dw, T* db) {
  constexpr auto d = row.d;
  const std::int64_t C = row.C;
  BlockStatistics<T> of;
  block_statistics(row, x, rows, eps, of);
  T mean_g[kBlockRows], mean_g_xhat[kBlockRows];
  for (std::int64_t r = 0; dx && r < rows; ++r) {
    const auto mean = hn::Set(d, of.mean[r]);
    const auto g = [&](std::int64_t i) HWY_ATTR { return hn::Mul(load(d, dy + r * C + i), hn::LoadU(d, w + i)); };
    mean_g[r] = row.sum(g) / static_cast<T>(C);
    mean_g_xhat[r] = row.sum([&](std::int64_t i) HWY_ATTR {
      return hn::Mul(g(i), hn::Sub(load(d, x + r * C + i), mean));
    }) * of.s[r] / static_cast<T>(C);
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto mean = hn::Set(d, of.mean[r]), s = hn::Set(d, of.s[r]);
    row.each([&](std::int64_t i) HWY_ATTR {
      const auto v = load(d, dy + r * C + i);
      const auto xhat = hn::Mul(hn::Sub(load(d, x + r * C + i), mean), s);
      hn::StoreU(hn::MulAdd(v, xhat, hn::LoadU(d, dw + i)), d, dw + i);
      hn::StoreU(hn::Add(v, hn::LoadU(d, db + i)), d, db + i);
      if (!dx) return;
      const auto centred = hn::Sub(hn::Mul(v, hn::LoadU(d, w + i)), hn::Set(d, mean_g[r]));
      store(hn::Mul(hn::NegMulAdd(xhat, hn::Set(d, mean_g_xhat[r]), centred), s), d, dx + r * C + i);
    });
  }
}

// gradient[c] += all partial sums from number `first` on, added in double.
template <typename T>
void add_partials(PartialSums<T>& partials, std::int64_t first, Tensor& gradient) {
  const std::int64_t C = gradient.elements();
  Scratch<double> sum(static_cast<std::size_t>(C));
  std::fill_n(sum.data(), C, 0.0);
  for (std::int64_t p = 0; p < partials.parts(); ++p) {
    for (std::int64_t c = 0; c < C; ++c) sum.data()[c] += partials.part(p)[first + c];
  }
  for (std::int64_t c = 0; c < C; ++c) gradient.data<T>()[c] += static_cast<T>(sum.data()[c]);
}

void LayerNormBackward(const Tensor& dy, const Tensor& x, const Tensor& w, double eps, Tensor& dx, Tensor& dw,
                       Tensor& db) {
  dispatch_activations("layernorm", x.dtype(), [&]<typename S>() HWY_ATTR {
    using T = Exact<S>;
    with_row_vectors<T>(x.size(-1), [&](auto row) HWY_ATTR {
      const std::int64_t C = row.C, width = row.vectors * row.lanes;
      Scratch<T> padded_w(static_cast<std::size_t>(width));
      T* pw = padded_w.data();
      pad_row(row, w.data<T>(), pw);
      const S *all_dy = dy.data<S>(), *all_x = x.data<S>();
      S* all_dx = dx ? dx.data<S>() : nullptr;
      PartialSums<T> partials(x.shape().rows(), layernorm_tile(C), 2 * width);  // dw, then db
      partials.gather([&](std::int64_t begin, std::int64_t end, T* sums) HWY_ATTR {
        for_row_blocks<S>(row, end - begin, std::array{all_dy + begin * C, all_x + begin * C},
                          all_dx ? all_dx + begin * C : nullptr,
                          [&](const auto& in, S* pdx, std::int64_t rows)
                              HWY_ATTR { backward_block(row, in[0], in[1], pw, rows, eps, pdx, sums, sums + width); });
      });
      if (dw) add_partials(partials, 0, dw);
      if (db) add_partials(partials, width, db);
    });
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(LayerNormForward);
static void layernorm_forward_cpu(const Tensor& x, const Tensor& w, const Tensor& b, double eps, Tensor& y) {
  HWY_DYNAMIC_DISPATCH(LayerNormForward)(x, w, b, eps, y);
}
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, double, Tensor&)> layernorm_forward{
    "layernorm_forward", layernorm_forward_cpu, Bfloat16::native};

HWY_EXPORT(LayerNormBackward);
static void layernorm_backward_cpu(const Tensor& dy, const Tensor& x, const Tensor& w, double eps, Tensor& dx,
                                   Tensor& dw, Tensor& db) {
  HWY_DYNAMIC_DISPATCH(LayerNormBackward)(dy, x, w, eps, dx, dw, db);
}
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, double, Tensor&, Tensor&, Tensor&)>
    layernorm_backward{"layernorm_backward", layernorm_backward_cpu, Bfloat16::native};

}  // namespace dattn
#endif
