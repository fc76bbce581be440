// The position bias of DAttention's scores in the form that kernels take, and the sums of its gradients' parts.
#include "cuda/dattention_bias.cuh"

#include "cuda/dattention_bias_gradient.cuh"
#include "cuda/sums.cuh"

namespace dattn::cuda {

namespace {

// A relative table [M,2h-1,2w-1] in a ring of at least two zeros.
struct FillRing {
  DeviceBias b;
  const float* table;
  float* ring;
  __device__ void operator()(std::int64_t i) const {
    const auto head = static_cast<int>(i / b.ring_size()),
               at = static_cast<int>(i - std::int64_t{head} * b.ring_size());
    const int row = at / b.ring_row - 2, column = at % b.ring_row - 2;
    const bool inside = row >= 0 && row < 2 * b.table_height - 1 && column >= 0 && column < b.table_row();
    ring[i] = inside ? table[static_cast<std::int64_t>(head) * b.table_size() + row * b.table_row() + column] : 0.0f;
  }
};

std::int64_t ring_elements(const DAttentionBias& b, std::int64_t heads) {
  if (b.kind != BiasKind::table) return 0;
  return heads * (b.table.shape()[1] + 4) * ring_row_of(static_cast<int>(b.table.shape()[2] + 1) / 2);
}

// Gradient of a relative table [M, table] from the sums of blocks (part * M + m) * chunks + chunk.
struct FoldTable {
  const float* sums;
  int heads, parts, chunks, elements;
  float* dtable;
  template <typename Team>
  __device__ void operator()(const Team& team) const {
    const std::int64_t m = team.row() / elements, at = team.row() - m * elements;
    const float sum = team.sum_of(parts * chunks, [&](std::int64_t i) {
      const std::int64_t part = i / chunks, chunk = i - part * chunks;
      return sums[((part * heads + m) * chunks + chunk) * elements + at];
    });
    if (team.index() == 0) dtable[team.row()] += sum;
  }
};

// Gradients of the log-CPB network, each null where it is not trained, from sums [blocks, 4, hidden].
struct FoldLogCpb {
  const float* sums;
  int heads, parts, chunks, hidden, per_group;
  float *dw1, *db1, *dw2;
  template <typename Team>
  __device__ void operator()(const Team& team) const {
    const auto place = static_cast<int>(team.row() / hidden), c = static_cast<int>(team.row() - place * hidden);
    const int output = place < per_group ? place : -1;  // w2's rows, then b1, then both columns of w1
    const int at = output >= 0 ? 0 : place - per_group + 1;
    const float sum = team.sum_of(parts * heads * chunks, [&](std::int64_t block) {
      const bool gives = output < 0 || block / chunks % heads % per_group == output;
      return gives ? sums[(block * 4 + at) * hidden + c] : 0.0f;
    });
    if (team.index() != 0) return;
    if (output >= 0 && dw2 != nullptr) dw2[output * hidden + c] += sum;
    if (at == 1 && db1 != nullptr) db1[c] += sum;
    if (at >= 2 && dw1 != nullptr) dw1[2 * c + at - 2] += sum;
  }
};

float* gradient_of(const Parameter& p) { return p.trainable() ? p.grad().data<float>() : nullptr; }

}  // namespace

BiasInputs::BiasInputs(const Tensor& q, const Tensor& k, const Tensor& positions, const DAttentionBias& b,
                       std::int64_t heads)
    : ring_(ring_elements(b, heads)) {
  bias_.kind = b.kind;
  bias_.height = static_cast<int>(q.size(1)), bias_.width = static_cast<int>(q.size(2));
  bias_.samples = static_cast<int>(k.size(1) * k.size(2));
  if (b.moves()) {
    bias_.groups = static_cast<int>(positions.size(3)), bias_.per_group = static_cast<int>(heads) / bias_.groups;
    bias_.positions = positions.data<float>();
    if (bias_.height > 1) bias_.step_y = static_cast<float>(2.0 / (bias_.height - 1)), bias_.first_y = -1;
    if (bias_.width > 1) bias_.step_x = static_cast<float>(2.0 / (bias_.width - 1)), bias_.first_x = -1;
  }
  if (b.kind == BiasKind::table) {
    bias_.table_height = static_cast<int>(b.table.shape()[1] + 1) / 2;
    bias_.table_width = static_cast<int>(b.table.shape()[2] + 1) / 2;
    bias_.ring_row = ring_row_of(bias_.table_width);
    bias_.windows = bias_.table_height == bias_.height && bias_.table_width == bias_.width;
    bias_.table = ring_.data();
    for_each_item("dattention_ring", ring_elements(b, heads),
                  FillRing{bias_, b.table.value().data<float>(), ring_.data()});
  }
  if (b.kind == BiasKind::fixed) bias_.table = b.table.value().data<float>();
  if (b.kind == BiasKind::log_cpb) {
    bias_.hidden = static_cast<int>(b.b1.shape()[0]);
    bias_.w1 = b.w1.value().data<float>(), bias_.b1 = b.b1.value().data<float>();
    bias_.w2 = b.w2.value().data<float>();
  }
}

BiasForm BiasInputs::form(std::size_t other_bytes) const {
  if (bias_.kind == BiasKind::none) return BiasForm::none;
  return bias_.windows && other_bytes + ring_bytes() <= device().shared_bytes ? BiasForm::window : BiasForm::any;
}

namespace {

int gradient_elements(const DeviceBias& bias, bool table, bool log_cpb) {
  return table ? bias.table_size() : log_cpb ? 4 * bias.hidden : 0;
}

// Blocks that keep sums: enough to fill a device, and few enough that the sums stay small beside activations.
std::int64_t wanted_blocks(int elements) {
  constexpr std::int64_t kMost = 1024, kMostNumbers = 1 << 24;
  return std::clamp<std::int64_t>(kMostNumbers / std::max(elements, 1), 1, kMost);
}

int shares(std::int64_t wanted, std::int64_t others, int most) {
  return static_cast<int>(std::clamp<std::int64_t>((wanted + others - 1) / others, 1, most));
}

}  // namespace

BiasGradientParts::BiasGradientParts(const DeviceBias& bias, BiasForm form, const DAttentionBias& b, int images,
                                     int heads, int tiles)
    : image_parts(images),
      chunks(tiles),
      sweeps_table(bias.windows && form == BiasForm::any && b.table.trainable()),
      table_(bias.kind == BiasKind::table && b.table.trainable() && !sweeps_table),
      log_cpb_(bias.kind == BiasKind::log_cpb && (b.w1.trainable() || b.b1.trainable() || b.w2.trainable())),
      sums_([&]() -> std::int64_t {
        const int elements = gradient_elements(bias, table_, log_cpb_);
        if (elements == 0) return 0;
        const std::int64_t wanted = wanted_blocks(elements);
        image_parts = shares(wanted, heads, images);
        chunks = shares(wanted, std::int64_t{image_parts} * heads, tiles);
        return std::int64_t{image_parts} * heads * chunks * elements;
      }()) {
  gradient.elements = gradient_elements(bias, table_, log_cpb_);
  gradient.sums = sums_.data();
  gradient.wanted = table_ || log_cpb_;
  if (table_ && form == BiasForm::window) gradient.shared_floats = gradient.elements;
  if (log_cpb_) gradient.shared_floats = kMostWarps * gradient.elements;
  if (bias.kind == BiasKind::fixed && b.table.trainable()) {
    gradient.wanted = true;
    gradient.sums = b.table.grad().data<float>();
    image_parts = 1;
  }
}

void BiasGradientParts::fold(const DeviceBias& bias, const DAttentionBias& b, int heads) const {
  if (table_) {
    for_each_sum("dattention_fold_table", std::int64_t{heads} * gradient.elements, image_parts * chunks,
                 FoldTable{gradient.sums, heads, image_parts, chunks, gradient.elements, gradient_of(b.table)});
  }
  if (log_cpb_) {
    for_each_sum("dattention_fold_log_cpb", std::int64_t{bias.per_group + 3} * bias.hidden,
                 image_parts * heads * chunks,
                 FoldLogCpb{gradient.sums, heads, image_parts, chunks, bias.hidden, bias.per_group, gradient_of(b.w1),
                            gradient_of(b.b1), gradient_of(b.w2)});
  }
}

}  // namespace dattn::cuda
