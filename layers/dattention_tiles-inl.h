// What DAttention's attend kernels share: how a call is cut into tasks and tiles, copies of one head's rows, and the
// bias's inputs. Included by dattention_attend_cpu.cpp, once for each instruction set.
#if defined(DATTN_LAYERS_DATTENTION_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DATTN_LAYERS_DATTENTION_TILES_INL_H_
#undef DATTN_LAYERS_DATTENTION_TILES_INL_H_
#else
#define DATTN_LAYERS_DATTENTION_TILES_INL_H_
#endif

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/simd.h"
#include "layers/dattention_bias-inl.h"
#include "layers/dattention_kernels.h"
#include "layers/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// Vectors run along queries: a tile's scores are s[j][i], its queries and mixes are held transposed [D][i], keys and
// values as rows [K][D] of one head. Row maxima and sums are then whole vectors, and all products broadcast one side.
constexpr std::int64_t kTileSamples = 64;  // samples of a tile: its scores stay in the nearest cache
constexpr std::int64_t kTasks = 32;        // tasks of a call, at least where there is so much work: for many threads

template <typename T>
std::int64_t lane_count() {
  return static_cast<std::int64_t>(hn::Lanes(Wide<T>()));
}
template <typename T>
std::int64_t tile_queries() {
  return kTileVectors * lane_count<T>();
}

/// Sizes of a call, and how it is cut: a task has a part of the images, a chunk of the queries, and one head, or all of
/// them where the parts alone are tasks enough: heads share cache lines.
struct Plan {
  std::int64_t images, queries, samples, channels, heads, head_channels;
  std::int64_t parts, chunks, chunk_queries, heads_together;

  Plan(const Tensor& q, const Tensor& k, const Tensor& lse, BiasKind bias, std::int64_t tile)
      : images(q.size(0)),
        queries(q.size(1) * q.size(2)),
        samples(k.size(1) * k.size(2)),
        channels(q.size(3)),
        heads(lse.size(1)),
        head_channels(channels / heads) {
    // Gradients of a fixed table are as large as the scores of an image, so they are not held once for each part.
    parts = bias == BiasKind::fixed ? 1 : std::clamp<std::int64_t>(images, 1, kTasks);
    const std::int64_t tiles = std::max<std::int64_t>(1, tile_count(queries, tile));
    chunk_queries = tile * tile_count(tiles, std::min(tiles, tile_count(kTasks, parts * heads)));
    chunks = tile_count(queries, chunk_queries);
    heads_together = parts >= kTasks ? heads : 1;
  }
  std::int64_t tasks() const { return slots() / heads_together; }
  /// Triples of a part, a head and a chunk, in this order: each keeps sums of its own.
  std::int64_t slots() const { return parts * heads * chunks; }
  std::int64_t head_of(std::int64_t slot) const { return slot / chunks % heads; }
};

struct Task {
  std::int64_t part, first_head, last_head, chunk, first_image, last_image, first_query, last_query;

  Task(const Plan& plan, std::int64_t index)
      : part(index / plan.chunks * plan.heads_together / plan.heads),
        first_head(index / plan.chunks * plan.heads_together % plan.heads),
        last_head(first_head + plan.heads_together),
        chunk(index % plan.chunks),
        first_image(part * plan.images / plan.parts),
        last_image((part + 1) * plan.images / plan.parts),
        first_query(chunk * plan.chunk_queries),
        last_query(std::min(plan.queries, first_query + plan.chunk_queries)) {}
  std::int64_t slot(const Plan& plan, std::int64_t head) const {
    return (part * plan.heads + head) * plan.chunks + chunk;
  }
};

// --- copies between the tensors, whose elements may be bfloat16, and one head's tiles, in float then ---

// y[r, 0..n) = scale * x[r, 0..n) over rows that lie `x_step` and `y_step` apart.
template <typename S, typename T>
void scale_rows(std::int64_t rows, std::int64_t n, T scale, const S* x, std::int64_t x_step, T* y,
                std::int64_t y_step) {
  const Wide<T> wide;
  const std::int64_t whole = n / lane_count<T>() * lane_count<T>();
  for (std::int64_t r = 0; whole > 0 && r < rows; ++r) {
    for (std::int64_t c = 0; c < whole; c += lane_count<T>()) {
      hn::StoreU(hn::Mul(hn::Set(wide, scale), load(wide, x + r * x_step + c)), wide, y + r * y_step + c);
    }
  }
  for_channels(wide, whole, n, [&](auto d, std::int64_t c) HWY_ATTR {
    for (std::int64_t r = 0; r < rows; ++r) {
      hn::StoreU(hn::Mul(hn::Set(d, scale), load(d, x + r * x_step + c)), d, y + r * y_step + c);
    }
  });
}

// to[row][c] = scale * from[row, head's channel c]; rows of `from` are `channels` long.
template <typename S, typename T>
void pack_rows(const Plan& plan, const S* from, std::int64_t rows, T scale, T* to) {
  scale_rows(rows, plan.head_channels, scale, from, plan.channels, to, plan.head_channels);
}

// And back.
template <typename T>
void unpack_rows(const Plan& plan, const T* from, std::int64_t rows, T* to) {
  scale_rows(rows, plan.head_channels, T(1), from, plan.head_channels, to, plan.channels);
}

// Queries that share a vector in sums over queries: as many as fill one with their channels, 1, 2 or 4.
template <typename T>
int vector_queries(const Plan& plan) {
  for (const int group : {4, 2}) {
    if (group * plan.head_channels == lane_count<T>() && group * sizeof(T) <= 16) return group;
  }
  return 1;
}

// Rows of columns [D][stride], kGroup of them together: to[row / kGroup][c][row % kGroup].
template <int kGroup, typename T>
void group_rows(const Plan& plan, const T* columns, std::int64_t stride, T* to) {
  for (std::int64_t row = 0; row < stride; row += kGroup) {
    for (std::int64_t c = 0; c < plan.head_channels; ++c, to += kGroup) {
      std::memcpy(to, columns + c * stride + row, kGroup * sizeof(T));
    }
  }
}

// x[i] = x[2 i] + x[2 i + 1] for the n numbers of x.
template <typename T>
void add_pairs(T* x, std::int64_t n) {
  std::int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const Wide<T> d;
  for (; i + 2 * lane_count<T>() <= n; i += 2 * lane_count<T>()) {
    const auto low = hn::LoadU(d, x + i), high = hn::LoadU(d, x + i + lane_count<T>());
    hn::StoreU(hn::Add(hn::ConcatEven(d, high, low), hn::ConcatOdd(d, high, low)), d, x + i / 2);
  }
#endif
  for (; i < n; i += 2) x[i / 2] = x[i] + x[i + 1];
}

// Whether columns are packed by squares of four channels: for floats, where vectors are.
template <typename T>
constexpr bool kSquares = std::is_same_v<T, float>&& HWY_TARGET != HWY_SCALAR;

#if HWY_TARGET != HWY_SCALAR
// A vector of blocks of four floats, from or to places that are `step` apart.
template <class D, typename S>
HWY_INLINE hn::Vec<D> load_blocks(D d, const S* from, std::int64_t step) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    return load(d, from);
  } else {
    const hn::Half<D> half;
    const auto blocks = static_cast<std::int64_t>(hn::Lanes(half)) / 4;
    return hn::Combine(d, load_blocks(half, from + blocks * step, step), load_blocks(half, from, step));
  }
}
template <class D, typename S>
HWY_INLINE void store_blocks(D d, hn::Vec<D> v, S* to, std::int64_t step) {
  if constexpr (hn::MaxLanes(D()) == 4) {
    store(v, d, to);
  } else {
    const hn::Half<D> half;
    const auto blocks = static_cast<std::int64_t>(hn::Lanes(half)) / 4;
    store_blocks(half, hn::LowerHalf(half, v), to, step);
    store_blocks(half, hn::UpperHalf(half, v), to + blocks * step, step);
  }
}

// Calls f(c, r) for squares of four channels and a vector of rows, and returns the first row that is left.
template <typename T, typename F>
HWY_INLINE std::int64_t for_squares(const Plan& plan, std::int64_t rows, F&& f) {
  if (plan.head_channels % 4 != 0) return 0;
  std::int64_t r = 0;
  for (; r + lane_count<T>() <= rows; r += lane_count<T>()) {
    for (std::int64_t c = 0; c < plan.head_channels; c += 4) f(c, r);
  }
  return r;
}
#endif

// to[c][row] = scale * from[row, head's channel c], the columns from `rows` to `stride` zero.
template <typename S, typename T>
void pack_columns(const Plan& plan, const S* from, std::int64_t rows, T scale, std::int64_t stride, T* to) {
  std::int64_t first = 0;
  if constexpr (kSquares<T>) {
    const Wide<T> d;
    first = for_squares<T>(plan, rows, [&](std::int64_t c, std::int64_t r) HWY_ATTR {
      hn::Vec<Wide<T>> v[4];
      for (int k = 0; k < 4; ++k) v[k] = load_blocks(d, from + (r + k) * plan.channels + c, 4 * plan.channels);
      transpose_blocks(d, v);
      for (int k = 0; k < 4; ++k) hn::StoreU(hn::Mul(v[k], hn::Set(d, scale)), d, to + (c + k) * stride + r);
    });
  }
  for (std::int64_t c = 0; c < plan.head_channels; ++c) {
    for (std::int64_t r = first; r < rows; ++r)
      to[c * stride + r] = scale * static_cast<T>(from[r * plan.channels + c]);
    std::fill(to + c * stride + rows, to + (c + 1) * stride, T(0));
  }
}

// to[row, head's channel c] = scale * from[c][row].
template <typename S, typename T>
void unpack_columns(const Plan& plan, const T* from, std::int64_t rows, T scale, std::int64_t stride, S* to) {
  std::int64_t first = 0;
  if constexpr (kSquares<T>) {
    const Wide<T> d;
    first = for_squares<T>(plan, rows, [&](std::int64_t c, std::int64_t r) HWY_ATTR {
      hn::Vec<Wide<T>> v[4];
      for (int k = 0; k < 4; ++k) v[k] = hn::Mul(hn::LoadU(d, from + (c + k) * stride + r), hn::Set(d, scale));
      transpose_blocks(d, v);
      for (int k = 0; k < 4; ++k) store_blocks(d, v[k], to + (r + k) * plan.channels + c, 4 * plan.channels);
    });
  }
  for (std::int64_t r = first; r < rows; ++r) {
    for (std::int64_t c = 0; c < plan.head_channels; ++c)
      to[r * plan.channels + c] = static_cast<S>(scale * from[c * stride + r]);
  }
}

// --- the bias in kernel form ---

// Coordinates of queries and the table in its ring of zeros, shared by all tasks of a call.
template <typename T>
class BiasInputs {
 public:
  BiasInputs(const Plan& plan, const Tensor& q, const Tensor& positions, const DAttentionBias& b)
      : query_y_(padded(plan, b)), query_x_(padded(plan, b)), ring_(ring_elements(plan, b)) {
    bias.kind = b.kind, bias.height = q.size(1), bias.width = q.size(2), bias.samples = plan.samples;
    if (bias.moves()) {
      bias.groups = positions.size(3), bias.per_group = plan.heads / bias.groups;
      bias.positions = positions.data<T>();
      fill_coordinates();
    }
    if (b.kind == BiasKind::table) fill_ring(plan, b.table.value());
    if (b.kind == BiasKind::fixed) bias.table = b.table.value().data<T>();
    if (b.kind == BiasKind::log_cpb) {
      bias.hidden = b.b1.shape()[0];
      bias.w1 = b.w1.value().data<T>(), bias.b1 = b.b1.value().data<T>(), bias.w2 = b.w2.value().data<T>();
    }
  }

  Bias<T> bias;

 private:
  static std::size_t padded(const Plan& plan, const DAttentionBias& b) {
    return b.moves() ? static_cast<std::size_t>(plan.queries + tile_queries<T>()) : 0;
  }
  static std::size_t ring_elements(const Plan& plan, const DAttentionBias& b) {
    if (b.kind != BiasKind::table) return 0;
    const Shape& s = b.table.shape();
    return static_cast<std::size_t>(plan.heads * (s[1] + 2) * (s[2] + 2) + tile_queries<T>());
  }

  void fill_coordinates() {
    for (std::size_t i = 0; i < query_y_.size(); ++i) {
      const auto at = std::min(static_cast<std::int64_t>(i), bias.height * bias.width - 1);
      query_y_[i] = static_cast<T>(dattention_query_coordinate(at / bias.width, bias.height));
      query_x_[i] = static_cast<T>(dattention_query_coordinate(at % bias.width, bias.width));
    }
    bias.query_y = query_y_.data(), bias.query_x = query_x_.data();
  }

  void fill_ring(const Plan& plan, const Tensor& table) {
    const std::int64_t rows = table.size(1), columns = table.size(2);
    bias.table_height = (rows + 1) / 2, bias.table_width = (columns + 1) / 2;
    std::fill_n(ring_.data(), ring_.size(), T(0));
    for (std::int64_t r = 0; r < plan.heads * rows; ++r) {
      T* to = ring_.data() + r / rows * bias.ring_size() + (r % rows + 1) * bias.ring_row() + 1;
      std::copy_n(table.data<T>() + r * columns, columns, to);
    }
    bias.table = ring_.data();
  }

  Scratch<T> query_y_, query_x_, ring_;
};

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
