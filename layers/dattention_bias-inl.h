// The position bias of one tile of DAttention's scores and its gradients: relative table (10)-(12), fixed table (13),
// log-CPB network (14). Included by dattention_attend_cpu.cpp, once for each instruction set.
#if defined(DATTN_LAYERS_DATTENTION_BIAS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef DATTN_LAYERS_DATTENTION_BIAS_INL_H_
#undef DATTN_LAYERS_DATTENTION_BIAS_INL_H_
#else
#define DATTN_LAYERS_DATTENTION_BIAS_INL_H_
#endif

#include <algorithm>
#include <cmath>

#include "core/simd.h"
#include "layers/dattention_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

constexpr std::int64_t kTileVectors = 6;  // queries of a tile, in vectors: two blocks of three in small_product

// Scores of queries [query, query + queries) and samples [sample, sample + samples) of one head of one image. Element
// (j, i) of a tile's array is at j * stride + i; stride is a multiple of the vector length, and columns from `queries`
// on are padding.
struct Tile {
  std::int64_t image, head, query, queries, sample, samples, stride;
};

/// What the bias needs, in one form for all kinds.
template <typename T>
struct Bias {
  BiasKind kind = BiasKind::none;
  std::int64_t height = 0, width = 0;                   // of the map of queries
  std::int64_t samples = 0, groups = 1, per_group = 1;  // K, G, M/G
  std::int64_t table_height = 0, table_width = 0;       // of the map that the table was made for
  std::int64_t hidden = 0;
  const T* positions = nullptr;                    // [N,K,G,2]
  const T *query_y = nullptr, *query_x = nullptr;  // coordinates of every query, [H*W]
  const T* table = nullptr;                        // [M,2h+1,2w+1], the table in a ring of zeros; or fixed [M,H*W,K]
  const T *w1 = nullptr, *b1 = nullptr, *w2 = nullptr;

  const T* position(const Tile& t, std::int64_t j) const {
    return positions + ((t.image * samples + t.sample + j) * groups + t.head / per_group) * 2;
  }
  bool moves() const { return kind == BiasKind::table || kind == BiasKind::log_cpb; }
  /// Whether there is a table of which neighbouring queries are one cell apart.
  bool windows() const { return kind == BiasKind::table && height == table_height && width == table_width; }
  std::int64_t ring_row() const { return 2 * table_width + 1; }
  std::int64_t ring_size() const { return (2 * table_height + 1) * ring_row(); }
};

/// Where a task adds the gradients of one head's bias.
template <typename T>
struct BiasGradient {
  T* positions = nullptr;  // [K,2] of the image at hand
  T* table = nullptr;  // ring [2h+1,2w+1]; or fixed [H*W,K], the parameter's own; or for log-CPB sums [hidden,4,lanes]
};

// --- relative table, map of the table's size: a blend of four shifted windows (11)-(12) ---

// Where the window of one sample begins: query (0, 0) lies between table rows `row` and `row + 1`, at the fraction
// `fy`.
template <typename T>
struct Window {
  bool visible;
  std::int64_t row, column;
  T fy, fx;
};

template <typename T>
Window<T> window_of(const Bias<T>& bias, const T* position) {
  const auto h = static_cast<T>(bias.table_height), w = static_cast<T>(bias.table_width);
  const T v = (h - 1) * (1 - position[0]) / 2, u = (w - 1) * (1 - position[1]) / 2;  // (11)
  if (!(v > -h && v < 2 * h - 1 && u > -w && u < 2 * w - 1)) return {false, 0, 0, 0, 0};
  const T row = std::floor(v), column = std::floor(u);
  return {true, static_cast<std::int64_t>(row), static_cast<std::int64_t>(column), v - row, u - column};
}

// The windows of all samples of one image for one head, where the bias has windows.
template <typename T>
void fill_windows(const Bias<T>& bias, std::int64_t image, std::int64_t head, Window<T>* windows) {
  if (!bias.windows()) return;
  const Tile all{image, head, 0, 0, 0, bias.samples, 0};
  for (std::int64_t j = 0; j < bias.samples; ++j) windows[j] = window_of(bias, bias.position(all, j));
}

// What a tile has of one row of the map: queries (y, x), (y, x + 1), ... at `offset` in the tile.
struct MapRow {
  std::int64_t offset, length, y, x;
};

template <typename T>
struct MapRows {
  std::int64_t count = 0;
  MapRow rows[kTileVectors * HWY_MAX_BYTES / sizeof(T)];

  MapRows(const Bias<T>& bias, const Tile& t) {
    std::int64_t y = t.query / bias.width, x = t.query % bias.width;
    for (std::int64_t i = 0; i < t.queries; ++y, x = 0) {
      const std::int64_t length = std::min(bias.width - x, t.queries - i);
      rows[count++] = {i, length, y, x};
      i += length;
    }
  }
};

// What of a row falls on the table's ring.
struct QueryRun {
  std::int64_t low, high;  // elements of the row that see the table: [low, high)
  std::int64_t cell;       // ring offset of the upper left cell of element 0
};

template <typename T>
HWY_INLINE QueryRun run_of(const Bias<T>& bias, const Window<T>& window, const MapRow& on) {
  const std::int64_t row = on.y + window.row + 1, column = on.x + window.column + 1;
  QueryRun run{0, 0, row * bias.ring_row() + column};
  if (window.visible && row >= 0 && row < 2 * bias.table_height) {
    run.low = std::clamp<std::int64_t>(-column, 0, on.length);
    run.high = std::clamp<std::int64_t>(2 * bias.table_width - column, run.low, on.length);
  }
  return run;
}

// Writes whole vectors over [begin, end) of y; what runs over is written again by the next call, or is padding.
template <typename T, typename F>
HWY_INLINE void fill_over(std::int64_t begin, std::int64_t end, T* y, F&& f) {
  const Wide<T> d;
  for (std::int64_t i = begin; i < end; i += static_cast<std::int64_t>(hn::Lanes(d))) hn::StoreU(f(d, i), d, y + i);
}

template <typename T>
void window_forward(const Bias<T>& bias, const Tile& t, const Window<T>* windows, T* s) {
  const Wide<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const std::int64_t last = (t.queries - 1) / lanes * lanes;  // the first query of the last vector
  const T* table = bias.table + t.head * bias.ring_size();
  const MapRows<T> map(bias, t);
  for (std::int64_t j = 0; j < t.samples; ++j) {
    const Window<T>& window = windows[t.sample + j];
    const auto fx = hn::Set(d, window.fx), fy = hn::Set(d, window.fy);
    hn::StoreU(hn::Zero(d), d, s + j * t.stride + last);  // runs may end before its padding begins
    for (std::int64_t r = 0; r < map.count; ++r) {
      const MapRow& on = map.rows[r];
      const QueryRun run = run_of(bias, window, on);
      T* out = s + j * t.stride + on.offset;
      const T *upper = table + run.cell, *lower = upper + bias.ring_row();
      const auto zero = [](auto, std::int64_t) HWY_ATTR { return hn::Zero(Wide<T>()); };
      const auto blend = [&](auto, std::int64_t i) HWY_ATTR {  // (12)
        const auto above = hn::LoadU(d, upper + i), below = hn::LoadU(d, lower + i);
        const auto top = hn::MulAdd(fx, hn::Sub(hn::LoadU(d, upper + i + 1), above), above);
        const auto bottom = hn::MulAdd(fx, hn::Sub(hn::LoadU(d, lower + i + 1), below), below);
        return hn::MulAdd(fy, hn::Sub(bottom, top), top);
      };
      fill_over(0, run.low, out, zero);
      fill_over(run.low, run.high, out, blend);
      fill_over(run.high, on.length, out, zero);
    }
  }
}

// The gradients of one run of `count` scores ds: the table's by the transposed blend (28), and by the table coordinates
// (29), summed over lanes at the end. Cell c of the run gets e = (1 - fx) ds_c + fx ds_{c-1}, where ds is zero outside
// of the run; what runs over adds zeros. ds[-1] and a vector beyond the run must be readable.
template <typename T>
HWY_INLINE void window_run_backward(const Window<T>& window, std::int64_t count, std::int64_t row, const T* ds,
                                    const T* upper, T* dupper, hn::Vec<Wide<T>>& sum_v, hn::Vec<Wide<T>>& sum_u) {
  const Wide<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto fy = hn::Set(d, window.fy), fx = hn::Set(d, window.fx), one_fy = hn::Set(d, 1 - window.fy);
  const auto add_cells = [&](std::int64_t c, auto before, auto here) HWY_ATTR {
    const auto step = hn::Sub(before, here), e = hn::MulAdd(fx, step, here);
    const auto above = hn::LoadU(d, upper + c), across = hn::Sub(hn::LoadU(d, upper + row + c), above);
    sum_v = hn::MulAdd(e, across, sum_v);
    sum_u = hn::MulAdd(step, hn::MulAdd(fy, across, above), sum_u);
    hn::StoreU(hn::MulAdd(one_fy, e, hn::LoadU(d, dupper + c)), d, dupper + c);
    hn::StoreU(hn::MulAdd(fy, e, hn::LoadU(d, dupper + row + c)), d, dupper + row + c);
  };
  const auto some = [&](const T* from, std::int64_t n) HWY_ATTR {
    return hn::IfThenElseZero(hn::FirstN(d, static_cast<std::size_t>(n)), hn::LoadU(d, from));
  };
  const auto first = hn::IfThenZeroElse(hn::FirstN(d, 1), some(ds - 1, std::min(lanes, count + 1)));
  add_cells(0, first, some(ds, std::min(lanes, count)));
  std::int64_t c = lanes;
  for (; c + lanes <= count; c += lanes) add_cells(c, hn::LoadU(d, ds + c - 1), hn::LoadU(d, ds + c));
  if (c <= count) add_cells(c, some(ds + c - 1, count + 1 - c), some(ds + c, count - c));
}

template <typename T>
void window_backward(const Bias<T>& bias, const Tile& t, const Window<T>* windows, const T* ds,
                     const BiasGradient<T>& gradient) {
  const Wide<T> d;
  const T* table = bias.table + t.head * bias.ring_size();
  const MapRows<T> map(bias, t);
  for (std::int64_t j = 0; j < t.samples; ++j) {
    const Window<T>& window = windows[t.sample + j];
    if (!window.visible) continue;
    auto sum_v = hn::Zero(d), sum_u = hn::Zero(d);
    for (std::int64_t r = 0; r < map.count; ++r) {
      const QueryRun run = run_of(bias, window, map.rows[r]);
      if (run.low == run.high) continue;
      const std::int64_t cell = run.cell + run.low;
      window_run_backward(window, run.high - run.low, bias.ring_row(), ds + j * t.stride + map.rows[r].offset + run.low,
                          table + cell, gradient.table + cell, sum_v, sum_u);
    }
    const T dv = hn::GetLane(hn::SumOfLanes(d, sum_v)), du = hn::GetLane(hn::SumOfLanes(d, sum_u));
    gradient.positions[(t.sample + j) * 2] -= static_cast<T>(bias.table_height - 1) / 2 * dv;
    gradient.positions[(t.sample + j) * 2 + 1] -= static_cast<T>(bias.table_width - 1) / 2 * du;
  }
}

// --- relative table, maps of other sizes: bilinear sampling at (10) ---

// Cell and fractions of one query and one sample; ring offset -1 where the point lies outside of the table.
template <typename T>
struct Cell {
  std::int64_t at = -1;
  T fy = 0, fx = 0;

  Cell(const Bias<T>& bias, std::int64_t query, const T* position) {
    const auto h = static_cast<T>(bias.table_height), w = static_cast<T>(bias.table_width);
    const T v = ((bias.query_y[query] - position[0]) / 2 + 1) * (h - 1);  // (10)
    const T u = ((bias.query_x[query] - position[1]) / 2 + 1) * (w - 1);
    if (!(v > -1 && v < 2 * h - 1 && u > -1 && u < 2 * w - 1)) return;
    at =
        (static_cast<std::int64_t>(std::floor(v)) + 1) * bias.ring_row() + static_cast<std::int64_t>(std::floor(u)) + 1;
    fy = v - std::floor(v), fx = u - std::floor(u);
  }
};

template <typename T>
void cells_forward(const Bias<T>& bias, const Tile& t, T* s) {
  const T* table = bias.table + t.head * bias.ring_size();
  for (std::int64_t j = 0; j < t.samples; ++j) {
    std::fill_n(s + j * t.stride, t.stride, T(0));
    for (std::int64_t i = 0; i < t.queries; ++i) {
      const Cell<T> cell(bias, t.query + i, bias.position(t, j));
      if (cell.at < 0) continue;
      const T *upper = table + cell.at, *lower = upper + bias.ring_row();
      const T top = upper[0] + cell.fx * (upper[1] - upper[0]), bottom = lower[0] + cell.fx * (lower[1] - lower[0]);
      s[j * t.stride + i] = top + cell.fy * (bottom - top);
    }
  }
}

template <typename T>
void cells_backward(const Bias<T>& bias, const Tile& t, const T* ds, const BiasGradient<T>& gradient) {
  const T* table = bias.table + t.head * bias.ring_size();
  for (std::int64_t j = 0; j < t.samples; ++j) {
    T dv = 0, du = 0;
    for (std::int64_t i = 0; i < t.queries; ++i) {
      const Cell<T> cell(bias, t.query + i, bias.position(t, j));
      if (cell.at < 0) continue;
      const T g = ds[j * t.stride + i], fy = cell.fy, fx = cell.fx;
      const T *upper = table + cell.at, *lower = upper + bias.ring_row();
      T *dupper = gradient.table + cell.at, *dlower = dupper + bias.ring_row();
      dupper[0] += (1 - fy) * (1 - fx) * g, dupper[1] += (1 - fy) * fx * g;  // (28)
      dlower[0] += fy * (1 - fx) * g, dlower[1] += fy * fx * g;
      dv += g * ((1 - fx) * (lower[0] - upper[0]) + fx * (lower[1] - upper[1]));  // (29)
      du += g * ((1 - fy) * (upper[1] - upper[0]) + fy * (lower[1] - lower[0]));
    }
    gradient.positions[(t.sample + j) * 2] -= static_cast<T>(bias.table_height - 1) / 2 * dv;
    gradient.positions[(t.sample + j) * 2 + 1] -= static_cast<T>(bias.table_width - 1) / 2 * du;
  }
}

// --- fixed table (13), (27) ---

template <typename T>
void fixed_forward(const Bias<T>& bias, const Tile& t, T* s) {
  const T* table = bias.table + (t.head * bias.height * bias.width + t.query) * bias.samples + t.sample;
  for (std::int64_t j = 0; j < t.samples; ++j) {
    for (std::int64_t i = 0; i < t.queries; ++i) s[j * t.stride + i] = table[i * bias.samples + j];
    std::fill(s + j * t.stride + t.queries, s + (j + 1) * t.stride, T(0));
  }
}

template <typename T>
void fixed_backward(const Bias<T>& bias, const Tile& t, const T* ds, const BiasGradient<T>& gradient) {
  if (!gradient.table) return;
  T* table = gradient.table + t.query * bias.samples + t.sample;
  for (std::int64_t i = 0; i < t.queries; ++i) {
    for (std::int64_t j = 0; j < t.samples; ++j) table[i * bias.samples + j] += ds[j * t.stride + i];
  }
}

// --- log-CPB network (14), (30) ---

// Logarithmic distance (14): sign(z) log2(1 + |z|) / 3 with z = 4 (query - position).
template <typename D, typename T>
HWY_INLINE hn::Vec<D> log_distance(D d, const T* query, T position) {
  const auto z = hn::Mul(hn::Set(d, T(4)), hn::Sub(hn::LoadU(d, query), hn::Set(d, position)));
  const auto scale = hn::Set(d, T(1 / (3 * 0.693147180559945309417232121458)));
  return hn::Mul(hn::CopySign(hn::Log1p(d, hn::Abs(z)), z), scale);
}

// Derivative of the logarithmic distance by the position: -4 / (3 ln 2 (1 + |z|)).
template <typename D, typename T>
HWY_INLINE hn::Vec<D> log_distance_slope(D d, const T* query, T position) {
  const auto z = hn::Mul(hn::Set(d, T(4)), hn::Sub(hn::LoadU(d, query), hn::Set(d, position)));
  return hn::Div(hn::Set(d, T(-4 / (3 * 0.693147180559945309417232121458))), hn::Add(hn::Abs(z), hn::Set(d, T(1))));
}

// Hidden unit c before the ReLU.
template <typename D, typename T>
HWY_INLINE hn::Vec<D> hidden_unit(D d, const Bias<T>& bias, std::int64_t c, hn::Vec<D> fy, hn::Vec<D> fx) {
  const auto sum = hn::MulAdd(hn::Set(d, bias.w1[2 * c]), fy, hn::Set(d, bias.b1[c]));
  return hn::MulAdd(hn::Set(d, bias.w1[2 * c + 1]), fx, sum);
}

template <typename T>
void log_cpb_forward(const Bias<T>& bias, const Tile& t, T* s) {
  const Wide<T> d;
  const T* w2 = bias.w2 + t.head % bias.per_group * bias.hidden;
  for (std::int64_t j = 0; j < t.samples; ++j) {
    const T* position = bias.position(t, j);
    for (std::int64_t i = 0; i < t.queries; i += static_cast<std::int64_t>(hn::Lanes(d))) {
      const auto fy = log_distance(d, bias.query_y + t.query + i, position[0]);
      const auto fx = log_distance(d, bias.query_x + t.query + i, position[1]);
      auto sum = hn::Zero(d);
      for (std::int64_t c = 0; c < bias.hidden; ++c) {
        sum = hn::MulAdd(hn::Set(d, w2[c]), at_least(d, hidden_unit(d, bias, c, fy, fx), hn::Zero(d)), sum);
      }
      hn::StoreU(sum, d, s + j * t.stride + i);
    }
  }
}

// Sums over queries and samples stay vectors in gradient.table [hidden, 4, lanes]: of w2, b1, and both columns of w1.
// The padding of ds must be zero.
template <typename T>
void log_cpb_backward(const Bias<T>& bias, const Tile& t, const T* ds, const BiasGradient<T>& gradient) {
  const Wide<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const T* w2 = bias.w2 + t.head % bias.per_group * bias.hidden;
  const auto add = [&](std::int64_t place, hn::Vec<Wide<T>> v) HWY_ATTR {
    T* sum = gradient.table + place * lanes;
    hn::StoreU(hn::Add(hn::LoadU(d, sum), v), d, sum);
  };
  for (std::int64_t j = 0; j < t.samples; ++j) {
    const T* position = bias.position(t, j);
    auto dy = hn::Zero(d), dx = hn::Zero(d);
    for (std::int64_t i = 0; i < t.queries; i += lanes) {
      const T *query_y = bias.query_y + t.query + i, *query_x = bias.query_x + t.query + i;
      const auto g = hn::LoadU(d, ds + j * t.stride + i);
      const auto fy = log_distance(d, query_y, position[0]), fx = log_distance(d, query_x, position[1]);
      auto dfy = hn::Zero(d), dfx = hn::Zero(d);
      for (std::int64_t c = 0; c < bias.hidden; ++c) {
        const auto unit = hidden_unit(d, bias, c, fy, fx);
        const auto dunit = hn::IfThenElseZero(hn::Gt(unit, hn::Zero(d)), hn::Mul(g, hn::Set(d, w2[c])));
        add(4 * c, hn::Mul(g, at_least(d, unit, hn::Zero(d))));
        add(4 * c + 1, dunit);
        add(4 * c + 2, hn::Mul(dunit, fy));
        add(4 * c + 3, hn::Mul(dunit, fx));
        dfy = hn::MulAdd(dunit, hn::Set(d, bias.w1[2 * c]), dfy);
        dfx = hn::MulAdd(dunit, hn::Set(d, bias.w1[2 * c + 1]), dfx);
      }
      dy = hn::MulAdd(dfy, log_distance_slope(d, query_y, position[0]), dy);
      dx = hn::MulAdd(dfx, log_distance_slope(d, query_x, position[1]), dx);
    }
    gradient.positions[(t.sample + j) * 2] += hn::GetLane(hn::SumOfLanes(d, dy));
    gradient.positions[(t.sample + j) * 2 + 1] += hn::GetLane(hn::SumOfLanes(d, dx));
  }
}

// --- all kinds ---

/// Writes the bias of a tile to s; false, and nothing is written, where there is none.
template <typename T>
bool bias_forward(const Bias<T>& bias, const Tile& t, const Window<T>* windows, T* s) {
  switch (bias.kind) {
    case BiasKind::none:
      return false;
    case BiasKind::table:
      bias.windows() ? window_forward(bias, t, windows, s) : cells_forward(bias, t, s);
      break;
    case BiasKind::fixed:
      fixed_forward(bias, t, s);
      break;
    case BiasKind::log_cpb:
      log_cpb_forward(bias, t, s);
      break;
  }
  return true;
}

/// Adds to the gradients of the bias, from those of a tile's scores.
template <typename T>
void bias_backward(const Bias<T>& bias, const Tile& t, const Window<T>* windows, const T* ds,
                   const BiasGradient<T>& gradient) {
  switch (bias.kind) {
    case BiasKind::none:
      break;
    case BiasKind::table:
      bias.windows() ? window_backward(bias, t, windows, ds, gradient) : cells_backward(bias, t, ds, gradient);
      break;
    case BiasKind::fixed:
      fixed_backward(bias, t, ds, gradient);
      break;
    case BiasKind::log_cpb:
      log_cpb_backward(bias, t, ds, gradient);
      break;
  }
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
