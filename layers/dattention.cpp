// The DAttention module: options, offset network, encodings, and the forward pass around the fused operation.
#include "layers/dattention.h"

#include <cmath>

#include "core/ops.h"
#include "layers/activation.h"
#include "layers/init.h"
#include "layers/pool2d.h"

namespace dattn {

namespace {

constexpr std::int64_t kHidden = 32;  // units of the log-CPB network

Conv2dOptions offset_conv(const DAttentionOptions& o) {
  return {.stride = o.stride, .padding = o.ksize != o.stride ? o.ksize / 2 : 0, .groups = o.channel / o.n_groups};
}

struct GridSize {
  std::int64_t height, width;
};

// Samples of a map: what the offset convolution gives.
GridSize sample_grid(const DAttentionOptions& o, std::int64_t height, std::int64_t width) {
  const Conv2dOptions conv = offset_conv(o);
  return {conv2d_size(height, o.ksize, conv), conv2d_size(width, o.ksize, conv)};
}

// Refuses maps that the stride does not fit on, and pooled maps that the offset grid does not match. (Any kernel fits:
// it is padded by half its size, or is the stride.)
void check_map(const DAttentionOptions& o, std::int64_t height, std::int64_t width) {
  check(o.stride <= height && o.stride <= width, "DAttention: stride {} is beyond the map of {} x {} pixels", o.stride,
        height, width);
  if (!o.no_off) return;
  const GridSize grid = sample_grid(o, height, width);
  check(grid.height == height / o.stride && grid.width == width / o.stride,
        "DAttention: no_off pools {} x {} pixels with stride {} to {} x {} samples, the offset grid of ksize {} has {} "
        "x {}\n"
        "hint: choose stride and ksize so that both agree, such as a stride that divides the map",
        height, width, o.stride, height / o.stride, width / o.stride, o.ksize, grid.height, grid.width);
}

const DAttentionOptions& checked(const DAttentionOptions& o) {
  const auto at_least_one = [](const char* option, std::int64_t value) {
    check(value >= 1, "DAttention: expected {} of at least 1, got {}", option, value);
  };
  at_least_one("channel", o.channel), at_least_one("q_h", o.q_h), at_least_one("q_w", o.q_w);
  at_least_one("n_heads", o.n_heads), at_least_one("n_groups", o.n_groups);
  at_least_one("stride", o.stride), at_least_one("ksize", o.ksize);
  check(o.channel % o.n_heads == 0, "DAttention: channel {} is not divisible by n_heads {}", o.channel, o.n_heads);
  check(o.channel % o.n_groups == 0, "DAttention: channel {} is not divisible by n_groups {}", o.channel, o.n_groups);
  check(o.n_heads % o.n_groups == 0, "DAttention: n_heads {} is not divisible by n_groups {}", o.n_heads, o.n_groups);
  check(o.attn_drop >= 0 && o.attn_drop < 1, "DAttention: expected 0 <= attn_drop < 1, got {}", o.attn_drop);
  check(o.proj_drop >= 0 && o.proj_drop < 1, "DAttention: expected 0 <= proj_drop < 1, got {}", o.proj_drop);
  check(std::isfinite(o.offset_range_factor), "DAttention: expected a finite offset_range_factor, got {}",
        o.offset_range_factor);
  check_map(o, o.q_h, o.q_w);
  return o;
}

BiasKind bias_kind(const DAttentionOptions& o) {
  if (!o.use_pe || o.dwc_pe || o.no_off) return BiasKind::none;
  return o.fixed_pe ? BiasKind::fixed : o.log_cpb ? BiasKind::log_cpb : BiasKind::table;
}

DAttentionBias make_bias(const DAttentionOptions& o, Random& random) {
  DAttentionBias bias;
  bias.kind = bias_kind(o);
  if (bias.kind == BiasKind::table || bias.kind == BiasKind::fixed) {
    const GridSize grid = sample_grid(o, o.q_h, o.q_w);
    Tensor table =
        Tensor::empty(bias.kind == BiasKind::fixed ? Shape{o.n_heads, o.q_h * o.q_w, grid.height * grid.width}
                                                   : Shape{o.n_heads, 2 * o.q_h - 1, 2 * o.q_w - 1});
    init::truncated_normal(table, 0.01, random);
    bias.table = Parameter(std::move(table), Role::table);
  }
  if (bias.kind == BiasKind::log_cpb) {
    const Linear first(2, kHidden, true, random), second(kHidden, o.n_heads / o.n_groups, false, random);
    bias.w1 = first.weight, bias.b1 = first.bias, bias.w2 = second.weight;
  }
  return bias;
}

Conv2d projection(std::int64_t channels, Random& random) { return Conv2d(channels, channels, 1, {}, true, random); }

// [N,Hk,Wk,G,2], as kernels have positions, to [N,G,Hk,Wk,2].
Tensor by_group(const Tensor& positions) {
  NoGrad no_grad;
  return permute(positions, {0, 3, 1, 2, 4});
}

}  // namespace

// --- offset network ---

OffsetNetwork::OffsetNetwork(const DAttentionOptions& o, Random& random)
    : conv(o.channel / o.n_groups, o.channel / o.n_groups, o.ksize, offset_conv(o), true, random),
      norm(o.channel / o.n_groups),
      project(o.channel / o.n_groups, 2, 1, {}, false, random),
      groups(o.n_groups) {}

Tensor OffsetNetwork::operator()(const Tensor& q) const {
  const Tensor h = depthwise_conv2d_shared(q, conv.weight, conv.bias, conv.options, groups);  // [N,Hk,Wk,C]
  // The groups of a pixel lie side by side, so they are pixels of their own to the layers that follow.
  const Tensor rows = reshape(h, {h.size(0), h.size(1), h.size(2) * groups, h.size(3) / groups});
  // Offsets stay exact: a position in bfloat16 would be off by a sixteenth of a pixel on a map of 32.
  const Tensor features = gelu(norm(rows));
  return reshape(project(cast(features, exact_type(features.dtype()))), {h.size(0), h.size(1), h.size(2), groups, 2});
}

void OffsetNetwork::visit(Visitor& v) {
  v("0", conv);
  v("1.norm", norm);
  v("3", project);
}

// --- module ---

DAttention::DAttention(const DAttentionOptions& o, Random& random)
    : options(checked(o)),
      conv_offset(o, random),
      proj_q(projection(o.channel, random)),
      proj_k(projection(o.channel, random)),
      proj_v(projection(o.channel, random)),
      proj_out(projection(o.channel, random)),
      attn_drop(o.attn_drop, random),
      proj_drop(o.proj_drop, random),
      bias(make_bias(o, random)) {
  if (o.use_pe && o.dwc_pe)
    dwc.emplace(o.channel, o.channel, 3, Conv2dOptions{.padding = 1, .groups = o.channel}, true, random);
}

void DAttention::visit(Visitor& v) {
  v("conv_offset", conv_offset);
  v("proj_q", proj_q);
  v("proj_k", proj_k);
  v("proj_v", proj_v);
  v("proj_out", proj_out);
  v("attn_drop", attn_drop);
  v("proj_drop", proj_drop);
  v("rpe_table", dwc);
  v("rpe_table", bias.table);
  v("rpe_table.0.weight", bias.w1);
  v("rpe_table.0.bias", bias.b1);
  v("rpe_table.2.weight", bias.w2);
}

namespace {

void check_input(const DAttentionOptions& o, BiasKind kind, const Tensor& x) {
  if (x.rank() != 4) fail("DAttention: expected images [N,H,W,C], got {}", describe("x", x));
  const std::int64_t height = x.size(1), width = x.size(2);
  if (x.size(3) != o.channel)
    fail("DAttention: channel is {}, the input has {} ({})", o.channel, x.size(3), describe("x", x));
  check_map(o, height, width);
  if (kind != BiasKind::fixed || (height == o.q_h && width == o.q_w)) return;
  fail("DAttention: fixed_pe is a table for maps of {} x {} pixels, got {} x {} ({})", o.q_h, o.q_w, height, width,
       describe("x", x));
}

}  // namespace

Tensor DAttention::operator()(const Tensor& x) const {
  check_input(options, bias.kind, x);
  const Tensor q = proj_q(x);
  const Tensor offsets = options.no_off ? Tensor() : conv_offset(q);
  const Tensor source = options.no_off && options.stride > 1 ? avg_pool2d(x, options.stride) : x;
  Tensor mix = dattention(source, q, offsets, proj_k.weight, proj_k.bias, proj_v.weight, proj_v.bias, bias,
                          options.n_heads, options.offset_range_factor, attn_drop.mask());
  if (dwc) mix = depthwise_conv2d_add(mix, q, dwc->weight, dwc->bias, dwc->options);
  return proj_drop(proj_out(mix));  // (15)
}

Tensor DAttention::positions(const Tensor& x) const {
  check_input(options, bias.kind, x);
  NoGrad no_grad;
  Tensor offsets = conv_offset(proj_q(x));
  if (options.no_off) offsets.fill(0);
  Tensor points = Tensor::like(offsets);
  dattention_positions_forward(offsets, options.offset_range_factor, points);
  return by_group(points);
}

Tensor DAttention::reference_points(std::int64_t images, std::int64_t height, std::int64_t width) const {
  check_map(options, height, width);
  const GridSize grid = sample_grid(options, height, width);
  const Tensor offsets =
      Tensor::zeros({images, grid.height, grid.width, options.n_groups, 2}, proj_q.weight.value().dtype());
  Tensor points = Tensor::like(offsets);
  dattention_positions_forward(offsets, 0, points);
  return by_group(points);
}

}  // namespace dattn
