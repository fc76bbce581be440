// CPU kernels of DAttention's scores, softmax and mix (6)-(9), and their gradients (16)-(21), tile by tile: neither
// pass ever holds more of the score matrix than one tile, and backward recomputes its scores from the saved logarithms
// of the row sums.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "layers/dattention_attend_cpu.cpp"
#include "hwy/foreach_target.h"
//
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "core/parallel.h"
#include "core/simd.h"
#include "layers/dattention_kernels.h"
#include "layers/dattention_tiles-inl.h"
#include "layers/fast_exp-inl.h"
#include "layers/small_product-inl.h"

HWY_BEFORE_NAMESPACE();
namespace dattn::HWY_NAMESPACE {

// --- dropout of attention weights (8) ---

// Writes the mask of a tile, 0 or 1 / (1 - rate), in the order of its scores.
template <typename T>
void fill_mask(const Plan& plan, const DropoutMask& dropout, const Tile& t, T* mask) {
  for (std::int64_t j = 0; j < t.samples; ++j) {
    const std::int64_t row = ((t.image * plan.heads + t.head) * plan.samples + t.sample + j) * plan.queries + t.query;
    dropout.factors(static_cast<std::uint64_t>(row), t.queries, mask + j * t.stride);
    std::fill(mask + j * t.stride + t.queries, mask + (j + 1) * t.stride, T(0));
  }
}

// --- forward ---

// Where no score of a tile is larger than this, its exponentials and their sums stay far from the ends of a float's
// range by themselves: a running maximum is not needed, and they are made where the scores are.
constexpr int kSmallScore = 40;

// The largest |x[i]| of n numbers.
template <typename T>
T largest(std::int64_t n, const T* x) {
  return max_lanes<T>(n, T(0), [&](auto d, std::int64_t i) HWY_ATTR { return hn::Abs(hn::LoadU(d, x + i)); });
}

// The largest size of each head's bias [M], infinity where finding it costs as much as the scores.
template <typename T>
void largest_biases(const DAttentionBias& b, std::int64_t heads, T* most) {
  constexpr std::int64_t kTogether = 65536;  // elements
  std::fill_n(most, heads, b.kind == BiasKind::none ? T(0) : std::numeric_limits<T>::infinity());
  if (b.kind != BiasKind::table) return;
  const Tensor& table = b.table.value();
  const std::int64_t elements = table.elements() / heads;
  parallel_for(heads, std::max<std::int64_t>(1, kTogether / elements), [&](std::int64_t m, std::int64_t end) HWY_ATTR {
    for (; m < end; ++m) most[m] = largest(elements, table.data<T>() + m * elements);
  });
}

// Whether no score of a tile with these queries can be beyond kSmallScore: a product is at most the sum of one side's
// sizes times the largest of the other's.
template <typename T>
bool scores_are_small(const Tile& t, std::int64_t head_channels, const T* q, T largest_key, T largest_bias) {
  const Wide<T> d;
  const auto small = hn::Set(d, T(kSmallScore));
  for (std::int64_t i = 0; i < t.queries; i += lane_count<T>()) {
    auto sum = hn::Zero(d);
    for (std::int64_t c = 0; c < head_channels; ++c) sum = hn::Add(sum, hn::Abs(hn::LoadU(d, q + c * t.stride + i)));
    const auto bound = hn::MulAdd(sum, hn::Set(d, largest_key), hn::Set(d, largest_bias));
    if (!hn::AllTrue(d, hn::Le(bound, small))) return false;
  }
  return true;
}

// sum += the rows of a tile.
template <typename T>
void add_rows(const Tile& t, const T* s, T* sum) {
  const Wide<T> d;
  for (std::int64_t i = 0; i < t.queries; i += lane_count<T>()) {
    auto even = hn::LoadU(d, sum + i), odd = hn::Zero(d);
    std::int64_t j = 0;
    for (; j + 2 <= t.samples; j += 2) {
      even = hn::Add(even, hn::LoadU(d, s + j * t.stride + i));
      odd = hn::Add(odd, hn::LoadU(d, s + (j + 1) * t.stride + i));
    }
    if (j < t.samples) even = hn::Add(even, hn::LoadU(d, s + j * t.stride + i));
    hn::StoreU(hn::Add(even, odd), d, sum + i);
  }
}

// Largest scores of one vector of queries over a tile's samples; in two chains, as one alone would wait for each
// comparison.
template <typename T>
HWY_INLINE hn::Vec<Wide<T>> column_max(const Tile& t, const T* s) {
  const Wide<T> d;
  auto even = hn::LoadU(d, s), odd = even;
  std::int64_t j = 1;
  for (; j + 2 <= t.samples; j += 2) {
    even = hn::Max(even, hn::LoadU(d, s + j * t.stride));
    odd = hn::Max(odd, hn::LoadU(d, s + (j + 1) * t.stride));
  }
  return hn::Max(hn::Max(even, odd), hn::LoadU(d, s + (t.samples - 1) * t.stride));
}

// One step of the running softmax over samples (7): raises the maxima of the tile's rows to those of its scores, scales
// what was summed before, and turns the scores into exponentials. `mix` is [D][stride].
template <typename T>
void softmax_step(const Tile& t, std::int64_t head_channels, T* s, T* most, T* sum, T* mix) {
  const Wide<T> d;
  const std::int64_t stride = t.stride, samples = t.samples;  // read once: a store might be to them
  for (std::int64_t i = 0; i < t.queries; i += lane_count<T>()) {
    const auto before = hn::LoadU(d, most + i);
    const auto peak = hn::Max(before, column_max(t, s + i));
    const auto shrink = fast_exp(d, hn::Sub(before, peak));
    auto total = hn::Mul(hn::LoadU(d, sum + i), shrink);
    for (std::int64_t j = 0; j < samples; ++j) {
      const auto e = fast_exp(d, hn::Sub(hn::LoadU(d, s + j * stride + i), peak));
      total = hn::Add(total, e);
      hn::StoreU(e, d, s + j * stride + i);
    }
    hn::StoreU(peak, d, most + i);
    hn::StoreU(total, d, sum + i);
    for (std::int64_t c = 0; c < head_channels; ++c) {
      hn::StoreU(hn::Mul(hn::LoadU(d, mix + c * stride + i), shrink), d, mix + c * stride + i);
    }
  }
}

// Ends the running softmax: divides the mix by the row sums, and makes the maxima into the logarithms of the sums.
template <typename T>
void softmax_finish(const Tile& t, std::int64_t head_channels, const T* sum, T* most, T* mix) {
  const Wide<T> d;
  for (std::int64_t i = 0; i < t.queries; i += lane_count<T>()) {
    const auto total = hn::LoadU(d, sum + i);
    hn::StoreU(hn::Add(hn::LoadU(d, most + i), hn::Log(d, total)), d, most + i);
    const auto inverse = hn::Div(hn::Set(d, T(1)), total);
    for (std::int64_t c = 0; c < head_channels; ++c) {
      hn::StoreU(hn::Mul(hn::LoadU(d, mix + c * t.stride + i), inverse), d, mix + c * t.stride + i);
    }
  }
}

// y *= x over the rows of a tile.
template <typename T>
void multiply_tile(const Tile& t, const T* x, T* y) {
  for_lanes<T>(t.samples * t.stride, [&](auto d, std::int64_t i) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, y + i);
  });
}

// Scratch of a forward task.
template <typename T>
struct ForwardBuffers {
  Scratch<T> keys, values, q, mix, scores, mask, most, sum;
  Scratch<Window<T>> windows;  // of the image's samples, where the bias has windows
  T largest_key = 0;

  ForwardBuffers(const Plan& plan, std::int64_t tile, bool drops, bool has_windows)
      : keys(size(plan.samples * plan.head_channels)),
        values(keys.size()),
        q(size(tile * plan.head_channels)),
        mix(q.size()),
        scores(size((kTileSamples + 1) * tile)),
        mask(drops ? scores.size() : 0),
        most(size(tile)),
        sum(size(tile)),
        windows(has_windows ? size(plan.samples) : 0) {}
  static std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }
};

// Mix and lse of the queries of one tile, over all samples. `t` comes with its queries set.
template <typename T>
void attend_tile(const Plan& plan, const Bias<T>& bias, const DropoutMask& dropout, T largest_bias, Tile t,
                 ForwardBuffers<T>& b) {
  const std::int64_t hd = plan.head_channels, width = tile_count(t.queries, lane_count<T>()) * lane_count<T>();
  std::fill_n(b.mix.data(), b.mix.size(), T(0));
  const bool small = scores_are_small(t, hd, b.q.data(), b.largest_key, largest_bias);
  std::fill_n(b.most.data(), b.most.size(), small ? T(0) : std::numeric_limits<T>::lowest());
  std::fill_n(b.sum.data(), b.sum.size(), T(0));
  T* s = b.scores.data();
  for (t.sample = 0; t.sample < plan.samples; t.sample += kTileSamples) {
    t.samples = std::min(kTileSamples, plan.samples - t.sample);
    const T *keys = b.keys.data() + t.sample * hd, *values = b.values.data() + t.sample * hd;
    const bool biased = bias_forward(bias, t, b.windows.data(), s);
    // (6), (7)
    if (small) {
      small_product<T>(t.samples, width, hd, {keys, hd, 1}, b.q.data(), t.stride, s, t.stride, biased,
                       [](auto d, auto score, std::int64_t, std::int64_t) HWY_ATTR { return fast_exp(d, score); });
      add_rows(t, s, b.sum.data());
    } else {
      small_product<T>(t.samples, width, hd, {keys, hd, 1}, b.q.data(), t.stride, s, t.stride, biased);
      softmax_step(t, hd, s, b.most.data(), b.sum.data(), b.mix.data());
    }
    if (dropout.drops()) {
      fill_mask(plan, dropout, t, b.mask.data());
      multiply_tile(t, b.mask.data(), s);
    }
    // (9)
    small_product<T>(hd, width, t.samples, {values, 1, hd}, s, t.stride, b.mix.data(), t.stride, true);
  }
  softmax_finish(t, hd, b.sum.data(), b.most.data(), b.mix.data());
}

// The forward pass as tasks see it. S is the type of activations in memory.
template <typename S>
struct ForwardCall {
  using T = Exact<S>;
  const Plan& plan;
  const Bias<T>& bias;
  const DropoutMask& dropout;
  const T* largest_bias;  // of each head
  const S *q, *k, *v;
  T *mix, *lse;

  void run(const Task& task) const {
    ForwardBuffers<T> buffers(plan, tile_queries<T>(), dropout.drops(), bias.windows());
    for (std::int64_t n = task.first_image; n < task.last_image; ++n) {
      for (std::int64_t head = task.first_head; head < task.last_head; ++head) run_head(task, n, head, buffers);
    }
  }

 private:
  void run_head(const Task& task, std::int64_t n, std::int64_t head, ForwardBuffers<T>& buffers) const {
    const std::int64_t tile = tile_queries<T>(), column = head * plan.head_channels;
    const T scale = 1 / std::sqrt(static_cast<T>(plan.head_channels));
    const std::int64_t samples = n * plan.samples * plan.channels + column;
    pack_rows(plan, k + samples, plan.samples, T(1), buffers.keys.data());
    pack_rows(plan, v + samples, plan.samples, T(1), buffers.values.data());
    buffers.largest_key = largest(plan.samples * plan.head_channels, buffers.keys.data());
    fill_windows(bias, n, head, buffers.windows.data());
    for (std::int64_t i = task.first_query; i < task.last_query; i += tile) {
      const Tile t{n, head, i, std::min(tile, task.last_query - i), 0, 0, tile};
      const std::int64_t at = (n * plan.queries + i) * plan.channels + column;
      pack_columns(plan, q + at, t.queries, scale, tile, buffers.q.data());
      attend_tile(plan, bias, dropout, largest_bias[head], t, buffers);
      unpack_columns(plan, buffers.mix.data(), t.queries, T(1), tile, mix + at);
      std::copy_n(buffers.most.data(), t.queries, lse + (n * plan.heads + head) * plan.queries + i);
    }
  }
};

void AttendForward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& positions, const DAttentionBias& b,
                   const DropoutMask& dropout, Tensor& mix, Tensor& lse) {
  dispatch_activations("dattention", q.dtype(), [&]<typename S>() HWY_ATTR {
    using T = Exact<S>;
    const Plan plan(q, k, lse, b.kind, tile_queries<T>());
    const BiasInputs<T> inputs(plan, q, positions, b);
    Scratch<T> most(static_cast<std::size_t>(plan.heads));
    largest_biases(b, plan.heads, most.data());
    const ForwardCall<S> call{plan,        inputs.bias, dropout,       most.data(),  q.data<S>(),
                              k.data<S>(), v.data<S>(), mix.data<T>(), lse.data<T>()};
    parallel_for(plan.tasks(), 1, [&](std::int64_t index, std::int64_t) HWY_ATTR { call.run(Task(plan, index)); });
  });
}

// --- backward ---

// Scratch of a backward task.
template <typename T>
struct BackwardBuffers {
  static constexpr std::size_t kGuard = 16;      // a cache line: the bias's gradient reads one number before a row
  int group;                                     // queries of a vector
  Scratch<T> keys, values, dkeys, dvalues;       // [K][D], the gradients [K][D][group]
  Scratch<T> q, dmix, dq, q_rows, dmix_rows;     // [D][tile], and [tile / group][D][group]
  Scratch<T> scores, dscores, mask, lse, delta;  // tiles, that of dscores behind a guard; per query
  Scratch<Window<T>> windows;                    // of the image's samples, where the bias has windows

  BackwardBuffers(const Plan& plan, std::int64_t tile, bool drops, bool has_windows)
      : group(vector_queries<T>(plan)),
        keys(size(plan.samples * plan.head_channels)),
        values(keys.size()),
        dkeys(keys.size() * size(group)),
        dvalues(dkeys.size()),
        q(size(tile * plan.head_channels)),
        dmix(q.size()),
        dq(q.size()),
        q_rows(q.size()),
        dmix_rows(q.size()),
        scores(size((kTileSamples + 1) * tile)),
        dscores(scores.size() + kGuard),
        mask(drops ? scores.size() : 0),
        lse(size(tile)),
        delta(size(tile)),
        windows(has_windows ? size(plan.samples) : 0) {}
  static std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }
};

// y [samples][D][group] += the sums over the tile's queries of x [samples][queries] times their rows.
template <typename T>
void add_samples(const Tile& t, std::int64_t head_channels, int group, const T* x, const T* rows, T* y) {
  if (group == 1) {
    small_product<T>(t.samples, head_channels, t.queries, {x, t.stride, 1}, rows, head_channels, y, head_channels,
                     true);
    return;
  }
#if HWY_TARGET != HWY_SCALAR
  const std::int64_t queries = round_up(t.queries, group);  // those beyond the last are zero
  if (group == 2) return grouped_product<2>(t.samples, queries, x, t.stride, rows, y);
  if constexpr (sizeof(T) == 4) grouped_product<4>(t.samples, queries, x, t.stride, rows, y);
#endif
}

// Gradients from the queries of one tile: dq of the tile written, dkeys, dvalues and the bias's added to.
template <typename T>
void attend_tile_backward(const Plan& plan, const Bias<T>& bias, const DropoutMask& dropout, Tile t,
                          BackwardBuffers<T>& b, const BiasGradient<T>& gradient) {
  const std::int64_t hd = plan.head_channels, width = tile_count(t.queries, lane_count<T>()) * lane_count<T>();
  T *s = b.scores.data(), *ds = b.dscores.data() + BackwardBuffers<T>::kGuard;
  std::fill_n(b.dq.data(), b.dq.size(), T(0));
  for (t.sample = 0; t.sample < plan.samples; t.sample += kTileSamples) {
    t.samples = std::min(kTileSamples, plan.samples - t.sample);
    const T *keys = b.keys.data() + t.sample * hd, *values = b.values.data() + t.sample * hd;
    T *dkeys = b.dkeys.data() + t.sample * hd * b.group, *dvalues = b.dvalues.data() + t.sample * hd * b.group;
    const bool biased = bias_forward(bias, t, b.windows.data(), s);
    const T* mask = nullptr;
    if (dropout.drops()) fill_mask(plan, dropout, t, b.mask.data()), mask = b.mask.data();
    // Weights (7) from the scores (6); gradients of scores (19) from those of weights (17).
    small_product<T>(t.samples, width, hd, {keys, hd, 1}, b.q.data(), t.stride, s, t.stride, biased,
                     [lse = b.lse.data()](auto d, auto score, std::int64_t, std::int64_t i)
                         HWY_ATTR { return fast_exp(d, hn::Sub(score, hn::LoadU(d, lse + i))); });
    small_product<T>(t.samples, width, hd, {values, hd, 1}, b.dmix.data(), t.stride, ds, t.stride, false,
                     [=, stride = t.stride, delta = b.delta.data()](auto d, auto da, std::int64_t j, std::int64_t i)
                         HWY_ATTR {
                           const std::int64_t at = j * stride + i;
                           if (mask) da = hn::Mul(da, hn::LoadU(d, mask + at));
                           return hn::Mul(hn::LoadU(d, s + at), hn::Sub(da, hn::LoadU(d, delta + i)));
                         });
    if (mask) multiply_tile(t, mask, s);
    // (16), (20), (21)
    add_samples(t, hd, b.group, s, b.dmix_rows.data(), dvalues);
    small_product<T>(hd, width, t.samples, {keys, 1, hd}, ds, t.stride, b.dq.data(), t.stride, true);
    add_samples(t, hd, b.group, ds, b.q_rows.data(), dkeys);
    bias_backward(bias, t, b.windows.data(), ds, gradient);
  }
}

// Loads a tile's queries, mix gradients, lse and Delta (18). Padding has lse so large that its weights are
// as small as fast_exp makes them; what they are multiplied by is zero.
template <typename S, typename T>
void load_tile(const Plan& plan, const Tile& t, const S* q, const S* dmix, const T* mix, const T* lse, T scale,
               BackwardBuffers<T>& b) {
  pack_columns(plan, q, t.queries, scale, t.stride, b.q.data());
  pack_columns(plan, dmix, t.queries, T(1), t.stride, b.dmix.data());
  if (b.group == 1) {
    pack_rows(plan, q, t.queries, scale, b.q_rows.data());
    pack_rows(plan, dmix, t.queries, T(1), b.dmix_rows.data());
  } else if (b.group == 2) {
    group_rows<2>(plan, b.q.data(), t.stride, b.q_rows.data());
    group_rows<2>(plan, b.dmix.data(), t.stride, b.dmix_rows.data());
  } else {
    group_rows<4>(plan, b.q.data(), t.stride, b.q_rows.data());
    group_rows<4>(plan, b.dmix.data(), t.stride, b.dmix_rows.data());
  }
  std::fill(std::copy_n(lse, t.queries, b.lse.data()), b.lse.data() + t.stride, std::numeric_limits<T>::max());
  std::fill_n(b.delta.data(), t.stride, T(0));
  const std::int64_t whole = plan.head_channels / lane_count<T>() * lane_count<T>();
  for (std::int64_t i = 0; whole > 0 && i < t.queries; ++i) {
    b.delta[static_cast<std::size_t>(i)] = dot(whole, dmix + i * plan.channels, mix + i * plan.channels);
  }
  for_channels(Wide<T>(), whole, plan.head_channels, [&](auto d, std::int64_t c) HWY_ATTR {
    for (std::int64_t i = 0; i < t.queries; ++i) {
      const std::int64_t at = i * plan.channels + c;
      const auto products = hn::Mul(load(d, dmix + at), load(d, mix + at));
      b.delta[static_cast<std::size_t>(i)] += hn::GetLane(hn::SumOfLanes(d, products));
    }
  });
}

// Sums that tasks keep for themselves, added up in order afterwards.
template <typename T>
struct Partials {
  std::int64_t keys, table, positions;  // elements of one
  Scratch<T> dk, dv;                    // [chunks][N,K,C]; empty where one chunk writes the tensors themselves
  Scratch<T> dtable;                    // [tasks][table]
  Scratch<T> dpositions;                // [chunks][N,M,K,2]

  Partials(const Plan& plan, const Bias<T>& bias)
      : keys(plan.images * plan.samples * plan.channels),
        table(table_elements(bias)),
        positions(bias.moves() ? plan.images * plan.heads * plan.samples * 2 : 0),
        dk(size(plan.chunks > 1 ? plan.chunks * keys : 0)),
        dv(dk.size()),
        dtable(size(plan.slots() * table)),
        dpositions(size(plan.chunks * positions)) {
    std::fill_n(dtable.data(), dtable.size(), T(0));
    std::fill_n(dpositions.data(), dpositions.size(), T(0));
  }
  static std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }
  static std::int64_t table_elements(const Bias<T>& bias) {
    if (bias.kind == BiasKind::table) return bias.ring_size() + lane_count<T>();  // window_run_backward runs over
    return bias.kind == BiasKind::log_cpb ? bias.hidden * 4 * lane_count<T>() : 0;
  }
};

// y = the sum of `count` arrays of n elements, one after the other in x; 0 where there is none.
template <typename T>
void fold(const T* x, std::int64_t count, std::int64_t n, T* y) {
  parallel_for(n, 4096, [&](std::int64_t begin, std::int64_t end) HWY_ATTR {
    std::fill(y + begin, y + end, T(0));
    for (std::int64_t i = 0; i < count; ++i) axpy(end - begin, T(1), x + i * n + begin, y + begin);
  });
}

// Gradients of positions (29), (30) from those by chunk and head: dpositions [N,K,G,2].
template <typename T>
void fold_positions(const Plan& plan, const Bias<T>& bias, Partials<T>& partials, T* dpositions) {
  const T* parts = partials.dpositions.data();
  parallel_for(plan.images, 1, [&](std::int64_t n, std::int64_t) HWY_ATTR {
    T* image = dpositions + n * plan.samples * bias.groups * 2;
    for (std::int64_t i = 0; i < plan.samples * bias.groups * 2; ++i) {
      const std::int64_t sample = i / 2 / bias.groups, group = i / 2 % bias.groups;
      image[i] = 0;
      for (std::int64_t part = 0; part < plan.chunks * bias.per_group; ++part) {
        const std::int64_t chunk = part / bias.per_group, m = group * bias.per_group + part % bias.per_group;
        image[i] += parts[chunk * partials.positions + ((n * plan.heads + m) * plan.samples + sample) * 2 + i % 2];
      }
    }
  });
}

// Adds the tasks' gradients of the relative table to the parameter's, without the ring.
template <typename T>
void fold_table(const Plan& plan, const Bias<T>& bias, Partials<T>& partials, const Parameter& table) {
  if (!table.trainable()) return;
  const std::int64_t rows = 2 * bias.table_height - 1, columns = 2 * bias.table_width - 1;
  for (std::int64_t slot = 0; slot < plan.slots(); ++slot) {
    const T* part = partials.dtable.data() + slot * partials.table + bias.ring_row() + 1;
    T* dtable = table.grad().data<T>() + plan.head_of(slot) * rows * columns;
    for (std::int64_t r = 0; r < rows; ++r) {
      axpy(columns, T(1), part + r * bias.ring_row(), dtable + r * columns);
    }
  }
}

// Adds the tasks' gradients of the log-CPB network, which are vectors still, to the parameters'.
template <typename T>
void fold_log_cpb(const Plan& plan, const Bias<T>& bias, Partials<T>& partials, const DAttentionBias& b) {
  const Wide<T> d;
  for (std::int64_t slot = 0; slot < plan.slots(); ++slot) {
    const std::int64_t output = plan.head_of(slot) % bias.per_group;
    const T* part = partials.dtable.data() + slot * partials.table;
    for (std::int64_t c = 0; c < bias.hidden; ++c) {
      const auto sum = [&](std::int64_t place) HWY_ATTR {
        return hn::GetLane(hn::SumOfLanes(d, hn::LoadU(d, part + (4 * c + place) * lane_count<T>())));
      };
      if (b.w2.trainable()) b.w2.grad().data<T>()[output * bias.hidden + c] += sum(0);
      if (b.b1.trainable()) b.b1.grad().data<T>()[c] += sum(1);
      if (b.w1.trainable()) b.w1.grad().data<T>()[2 * c] += sum(2), b.w1.grad().data<T>()[2 * c + 1] += sum(3);
    }
  }
}

// The backward pass as tasks see it.
template <typename S>
struct BackwardCall {
  using T = Exact<S>;
  const Plan& plan;
  const Bias<T>& bias;
  const DropoutMask& dropout;
  const S *dmix, *q, *k, *v;
  const T *mix, *lse;
  S* dq;
  T *dk, *dv;         // [chunks][N,K,C]
  T* fixed_gradient;  // of a fixed table [M,H*W,K]; each element has one task
  Partials<T>& partials;

  void run(const Task& task) const {
    BackwardBuffers<T> buffers(plan, tile_queries<T>(), dropout.drops(), bias.windows());
    for (std::int64_t n = task.first_image; n < task.last_image; ++n) {
      for (std::int64_t head = task.first_head; head < task.last_head; ++head) run_head(task, n, head, buffers);
    }
  }

 private:
  // Where the gradients of the bias go that image n gives to a head.
  BiasGradient<T> bias_gradient(const Task& task, std::int64_t n, std::int64_t head) const {
    BiasGradient<T> gradient;
    gradient.table = partials.dtable.data() + task.slot(plan, head) * partials.table;
    if (bias.kind == BiasKind::fixed) {
      gradient.table = fixed_gradient ? fixed_gradient + head * plan.queries * plan.samples : nullptr;
    }
    gradient.positions =
        partials.dpositions.data() + task.chunk * partials.positions + (n * plan.heads + head) * plan.samples * 2;
    return gradient;
  }

  void run_head(const Task& task, std::int64_t n, std::int64_t head, BackwardBuffers<T>& buffers) const {
    const std::int64_t samples = n * plan.samples * plan.channels + head * plan.head_channels;
    pack_rows(plan, k + samples, plan.samples, T(1), buffers.keys.data());
    pack_rows(plan, v + samples, plan.samples, T(1), buffers.values.data());
    fill_windows(bias, n, head, buffers.windows.data());
    std::fill_n(buffers.dkeys.data(), buffers.dkeys.size(), T(0));
    std::fill_n(buffers.dvalues.data(), buffers.dvalues.size(), T(0));
    run_queries(task, n, head, buffers);
    for (Scratch<T>* sums : {&buffers.dkeys, &buffers.dvalues}) {
      auto count = static_cast<std::int64_t>(sums->size());
      for (int group = buffers.group; group > 1; group /= 2, count /= 2) add_pairs(sums->data(), count);
    }
    unpack_rows(plan, buffers.dkeys.data(), plan.samples, dk + task.chunk * partials.keys + samples);
    unpack_rows(plan, buffers.dvalues.data(), plan.samples, dv + task.chunk * partials.keys + samples);
  }

  void run_queries(const Task& task, std::int64_t n, std::int64_t head, BackwardBuffers<T>& buffers) const {
    const BiasGradient<T> gradient = bias_gradient(task, n, head);
    const std::int64_t tile = tile_queries<T>();
    const T scale = 1 / std::sqrt(static_cast<T>(plan.head_channels));
    for (std::int64_t i = task.first_query; i < task.last_query; i += tile) {
      const Tile t{n, head, i, std::min(tile, task.last_query - i), 0, 0, tile};
      const std::int64_t at = (n * plan.queries + i) * plan.channels + head * plan.head_channels;
      load_tile(plan, t, q + at, dmix + at, mix + at, lse + (n * plan.heads + head) * plan.queries + i, scale, buffers);
      attend_tile_backward(plan, bias, dropout, t, buffers, gradient);
      unpack_columns(plan, buffers.dq.data(), t.queries, scale, tile, dq + at);
    }
  }
};

void AttendBackward(const Tensor& dmix, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& positions,
                    const DAttentionBias& b, const DropoutMask& dropout, const Tensor& mix, const Tensor& lse,
                    Tensor& dq, Tensor& dk, Tensor& dv, Tensor& dpositions) {
  dispatch_activations("dattention", q.dtype(), [&]<typename S>() HWY_ATTR {
    using T = Exact<S>;
    const Plan plan(q, k, lse, b.kind, tile_queries<T>());
    const BiasInputs<T> inputs(plan, q, positions, b);
    Partials<T> partials(plan, inputs.bias);
    const bool direct = plan.chunks == 1;
    const BackwardCall<S> call{plan,
                               inputs.bias,
                               dropout,
                               dmix.data<S>(),
                               q.data<S>(),
                               k.data<S>(),
                               v.data<S>(),
                               mix.data<T>(),
                               lse.data<T>(),
                               dq.data<S>(),
                               direct ? dk.data<T>() : partials.dk.data(),
                               direct ? dv.data<T>() : partials.dv.data(),
                               b.kind == BiasKind::fixed && b.table.trainable() ? b.table.grad().data<T>() : nullptr,
                               partials};
    parallel_for(plan.tasks(), 1, [&](std::int64_t index, std::int64_t) HWY_ATTR { call.run(Task(plan, index)); });
    if (!direct) {
      fold(partials.dk.data(), plan.chunks, partials.keys, dk.data<T>());
      fold(partials.dv.data(), plan.chunks, partials.keys, dv.data<T>());
    }
    if (b.kind == BiasKind::table) fold_table(plan, inputs.bias, partials, b.table);
    if (b.kind == BiasKind::log_cpb) fold_log_cpb(plan, inputs.bias, partials, b);
    if (dpositions.defined()) fold_positions(plan, inputs.bias, partials, dpositions.data<T>());
  });
}

}  // namespace dattn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dattn {

HWY_EXPORT(AttendForward);
static void attend_forward_cpu(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& positions,
                               const DAttentionBias& bias, const DropoutMask& mask, Tensor& mix, Tensor& lse) {
  HWY_DYNAMIC_DISPATCH(AttendForward)(q, k, v, positions, bias, mask, mix, lse);
}
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const DAttentionBias&,
                      const DropoutMask&, Tensor&, Tensor&)>
    dattention_attend_forward{"dattention_attend_forward", attend_forward_cpu, Bfloat16::native};

HWY_EXPORT(AttendBackward);
static void attend_backward_cpu(const Tensor& dmix, const Tensor& q, const Tensor& k, const Tensor& v,
                                const Tensor& positions, const DAttentionBias& bias, const DropoutMask& mask,
                                const Tensor& mix, const Tensor& lse, Tensor& dq, Tensor& dk, Tensor& dv,
                                Tensor& dpositions) {
  HWY_DYNAMIC_DISPATCH(AttendBackward)(dmix, q, k, v, positions, bias, mask, mix, lse, dq, dk, dv, dpositions);
}
constinit Kernel<void(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const DAttentionBias&,
                      const DropoutMask&, const Tensor&, const Tensor&, Tensor&, Tensor&, Tensor&, Tensor&)>
    dattention_attend_backward{"dattention_attend_backward", attend_backward_cpu, Bfloat16::native};

}  // namespace dattn
#endif
