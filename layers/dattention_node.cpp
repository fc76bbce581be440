// The fused operation of DAttention: its checks and its node. It samples by the kernels of grid_sample, projects by
// those of linear.
#include "core/ops.h"
#include "core/saved.h"
#include "layers/dattention.h"
#include "layers/grid_sample.h"
#include "layers/linear.h"

namespace dattn {

namespace {

constexpr GridSampleOptions kSampling{
    .padding = Padding::zeros, .align_corners = true, .order = PointOrder::yx};  // (3)

// Positions [N,Hk,Wk,G,2] as the list of points [N,K,G,2] that they are.
Tensor points(const Tensor& positions) {
  return positions.view({positions.size(0), positions.size(1) * positions.size(2), positions.size(3), 2});
}

// x at the positions (4): [N,Hk,Wk,C].
Tensor sample(const Tensor& x, const Tensor& positions) {
  Tensor sampled = Tensor::empty({x.size(0), positions.size(1), positions.size(2), x.size(3)}, x.dtype(), x.device());
  grid_sample_forward(x, points(positions), kSampling, sampled);
  return sampled;
}

struct DAttentionNode : Node {
  Saved x, q;
  Tensor offsets;
  Tensor positions;  // [N,Hk,Wk,G,2]; undefined without offsets, as the samples are then x
  Tensor sampled;    // [N,Hk,Wk,C]; undefined where they are x or are sampled again
  Tensor k, v;       // [N,Hk,Wk,C]
  Tensor mix, lse;   // [N,H,W,C], [N,M,H*W], exact
  Parameter wk, bk, wv, bv;
  DAttentionBias bias;
  double factor = 0;
  DropoutMask mask;

  const char* name() const override { return "dattention"; }

  // What is done with is released on the way: this is where a network's memory is at its peak.
  void backward(const Tensor& dmix) override {
    const Dtype dtype = k.dtype();
    Tensor dk = Tensor::empty(k.shape(), exact_type(dtype), k.device()), dv = Tensor::like(dk), dpositions;
    if (needs(2)) dpositions = Tensor::zeros(positions.shape(), positions.dtype(), positions.device());
    attend_backward(dmix, dk, dv, dpositions);
    {
      const Tensor samples = sampled ? std::move(sampled) : positions ? sample(x.get(), positions) : x.get();
      project_backward(dk, samples, wk, bk);
      project_backward(dv, samples, wv, bv);
    }
    if (!needs(0) && !needs(2)) return;
    Tensor dsampled = projected_gradient(std::move(dk), wk);  // (22)
    add_forward(dsampled, projected_gradient(std::move(dv), wv), dsampled);
    if (!positions.defined()) return give(0, dsampled.to(dtype));
    sample_backward(dsampled, dpositions);
  }

  int recompute_sweeps() const override { return 1; }
  Tensor recompute() const override { return mix.to(k.dtype()); }

 private:
  // Gives dq; inside, gradients stay exact.
  void attend_backward(const Tensor& dmix, Tensor& dk, Tensor& dv, const Tensor& dpositions) {
    Tensor dq = Tensor::like(dmix), from_bias = bias.moves() ? dpositions : Tensor();
    dattention_attend_backward(dmix, q.get(), k, v, positions, bias, mask, mix, lse, dq, dk, dv, from_bias);
    if (needs(1)) give(1, std::move(dq));
    q = {}, k = {}, v = {}, mix = {}, lse = {};
  }

  // (23)
  static void project_backward(const Tensor& dy, const Tensor& x, const Parameter& w, const Parameter& b) {
    if (w.trainable()) {
      Tensor dw = as_matrix(w.grad());
      linear_backward_weight(dy, x, dw);
    }
    if (b.trainable()) bias_backward(dy, b.grad());
  }

  static Tensor projected_gradient(Tensor dy, const Parameter& w) {
    Tensor dx = Tensor::like(dy);
    linear_backward_data(dy, as_matrix(w.value()), dx);
    return dx;
  }

  void sample_backward(const Tensor& dsampled, Tensor& dpositions) {
    const Tensor map = x.get();
    if (needs(0)) {
      Tensor dx = Tensor::like(map);
      grid_sample_backward_x(dsampled, points(positions), kSampling, dx);  // (24)
      give(0, std::move(dx));
    }
    if (needs(2)) {
      Tensor dpoints = points(dpositions);
      grid_sample_backward_points(dsampled, map, points(positions), kSampling, dpoints);  // (25)-(26)
      Tensor doffsets = Tensor::like(offsets);
      dattention_positions_backward(dpositions, offsets, factor, doffsets);
      give(2, std::move(doffsets));
    }
  }
};

void expect_parameter(const char* label, const Parameter& p, const Shape& shape, const Tensor& q) {
  if (p && p.shape() == shape && p.value().dtype() == exact_type(q.dtype())) return;
  fail("dattention: expected {} {} {}, got {} ({})", label, shape, name(exact_type(q.dtype())),
       describe(label, p ? p.value() : Tensor()), describe("q", q));
}

void check_bias(const DAttentionBias& bias, const Tensor& q, const Tensor& offsets, std::int64_t heads,
                std::int64_t samples) {
  check(!bias.moves() || offsets.defined(), "dattention: a bias of relative positions needs offsets");
  if (bias.kind == BiasKind::table) {
    const bool three = bias.table && bias.table.shape().rank() == 3;
    if (!three || bias.table.shape()[0] != heads || bias.table.shape()[1] % 2 == 0 || bias.table.shape()[2] % 2 == 0) {
      fail("dattention: expected a bias table [{}, 2h-1, 2w-1], got {}", heads,
           describe("table", bias.table ? bias.table.value() : Tensor()));
    }
    expect_parameter("table", bias.table, bias.table.shape(), q);
  }
  if (bias.kind == BiasKind::fixed) expect_parameter("table", bias.table, {heads, q.size(1) * q.size(2), samples}, q);
  if (bias.kind == BiasKind::log_cpb) {
    const std::int64_t hidden = bias.b1 ? bias.b1.shape().elements() : 0;
    expect_parameter("b1", bias.b1, {hidden}, q);
    expect_parameter("w1", bias.w1, {hidden, 2}, q);
    expect_parameter("w2", bias.w2, {heads / offsets.size(3), hidden}, q);
  }
}

void check_arguments(const Tensor& x, const Tensor& q, const Tensor& offsets, std::initializer_list<Parameter> weights,
                     std::initializer_list<Parameter> biases, std::int64_t heads) {
  const auto shapes = [&] {
    return fmt::format("({}, {}{})", describe("x", x), describe("q", q),
                       offsets.defined() ? fmt::format(", {}", describe("offsets", offsets)) : std::string());
  };
  if (x.rank() != 4 || q.rank() != 4) fail("dattention: expected x and q [N,H,W,C] {}", shapes());
  const std::int64_t channels = q.size(3);
  const bool match = offsets.defined() ? x.shape() == q.shape() : x.size(0) == q.size(0) && x.size(3) == channels;
  if (!match || x.dtype() != q.dtype()) {
    fail("dattention: expected x {} {} {}",
         offsets.defined() ? fmt::format("{}", q.shape()) : fmt::format("[{},Hk,Wk,{}]", q.size(0), channels),
         name(q.dtype()), shapes());
  }
  if (heads < 1 || channels % heads != 0)
    fail("dattention: {} heads do not divide {} channels {}", heads, channels, shapes());
  if (offsets.defined()) {
    const bool good = offsets.rank() == 5 && offsets.size(0) == q.size(0) && offsets.size(4) == 2 &&
                      offsets.dtype() == exact_type(q.dtype());
    if (!good)
      fail("dattention: expected offsets [{},Hk,Wk,G,2] {} {}", q.size(0), name(exact_type(q.dtype())), shapes());
    const std::int64_t groups = offsets.size(3);
    if (groups < 1 || heads % groups != 0)
      fail("dattention: {} groups do not divide {} heads {}", groups, heads, shapes());
  }
  for (const Parameter& w : weights) {
    const bool good =
        w && w.value().elements() == channels * channels && w.shape()[0] == channels && w.shape()[-1] == channels;
    if (!good) fail("dattention: expected projections [{0},1,1,{0}] {1}", channels, shapes());
  }
  for (const Parameter& b : biases) {
    if (!b || b.shape() != Shape{channels}) fail("dattention: expected projection biases [{}] {}", channels, shapes());
  }
}

}  // namespace

Tensor dattention(const Tensor& x, const Tensor& q, const Tensor& offsets, const Parameter& wk, const Parameter& bk,
                  const Parameter& wv, const Parameter& bv, const DAttentionBias& bias, std::int64_t heads,
                  double factor, const DropoutMask& mask) {
  check_arguments(x, q, offsets, {wk, wv}, {bk, bv}, heads);
  Tensor positions, sampled = x.detach();
  if (offsets.defined()) {
    positions = Tensor::like(offsets);
    dattention_positions_forward(offsets, factor, positions);  // (2)
    sampled = sample(x, positions);
  }
  check_bias(bias, q, offsets, heads, sampled.size(1) * sampled.size(2));
  Tensor k = Tensor::like(sampled), v = Tensor::like(sampled);
  linear_forward(sampled, as_matrix(wk.value()), bk.value(), k);  // (5)
  linear_forward(sampled, as_matrix(wv.value()), bv.value(), v);
  const Dtype exact = exact_type(q.dtype());
  Tensor mix = Tensor::empty(q.shape(), exact, q.device()),
         lse = Tensor::empty({q.size(0), heads, q.size(1) * q.size(2)}, exact, q.device());
  dattention_attend_forward(q, k, v, positions, bias, mask, mix, lse);
  return record<DAttentionNode>(mix.to(q.dtype()), {x, q, offsets},
                                {wk, bk, wv, bv, bias.table, bias.w1, bias.b1, bias.w2}, [&](DAttentionNode& node) {
                                  node.x = x, node.q = q, node.offsets = offsets.detach();
                                  node.positions = positions, node.k = k, node.v = v, node.mix = mix, node.lse = lse;
                                  if (positions && !worth_recomputing(sampled)) node.sampled = sampled;
                                  node.wk = wk, node.bk = bk, node.wv = wv, node.bv = bv, node.bias = bias;
                                  node.factor = factor, node.mask = mask;
                                });
}

}  // namespace dattn
