// Self-attention: checks, node and module. Its loops are DAttention's, without a bias.
#include "layers/self_attention.h"

#include "layers/dattention_kernels.h"

namespace dattn {

namespace {

// The tokens of x [N,...,C] as a map of one column.
Tensor column(const Tensor& x) {
  const std::int64_t tokens = x.shape().rows() / x.size(0);
  return x.view({x.size(0), tokens, 1, x.size(-1)});
}

struct AttentionNode : Node {
  Tensor q, k, v, mix, lse;  // [N,T,1,C]; lse [N,M,T]
  Shape q_shape, k_shape;
  const char* name() const override { return "attention"; }
  void backward(const Tensor& dy) override {
    Tensor dq = Tensor::like(q), dpositions;
    Tensor dk = Tensor::empty(k.shape(), exact_type(k.dtype()), k.device()), dv = Tensor::like(dk);
    dattention_attend_backward(column(dy), q, k, v, {}, {}, {}, mix, lse, dq, dk, dv, dpositions);
    give(0, dq.view(q_shape));
    give(1, dk.view(k_shape).to(k.dtype()));
    give(2, dv.view(k_shape).to(v.dtype()));
  }
};

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, std::int64_t n_heads) {
  const bool same_type = q.dtype() == k.dtype() && k.dtype() == v.dtype();
  check(q.rank() >= 3 && k.rank() >= 3 && k.shape() == v.shape() && k.size(0) == q.size(0) &&
            k.size(-1) == q.size(-1) && same_type,
        "attention: expected q [N,...,C] and k, v [N,...,C] of one type ({}, {}, {})", describe("q", q),
        describe("k", k), describe("v", v));
  check(n_heads >= 1 && q.size(-1) % n_heads == 0, "attention: {} heads do not divide {} channels ({})", n_heads,
        q.size(-1), describe("q", q));
  check(q.size(0) > 0 && k.elements() > 0, "attention: there is nothing to attend to ({}, {})", describe("q", q),
        describe("k", k));
  const Tensor queries = column(q), keys = column(k), values = column(v);
  const Dtype exact = exact_type(q.dtype());
  Tensor mix = Tensor::empty(queries.shape(), exact, q.device()),
         lse = Tensor::empty({q.size(0), n_heads, queries.size(1)}, exact, q.device());
  dattention_attend_forward(queries, keys, values, {}, {}, {}, mix, lse);
  return record<AttentionNode>(mix.view(q.shape()).to(q.dtype()), {q, k, v}, {}, [&](AttentionNode& node) {
    node.q = queries, node.k = keys, node.v = values, node.mix = mix, node.lse = lse;
    node.q_shape = q.shape(), node.k_shape = k.shape();
  });
}

namespace {
Conv2d projection(std::int64_t channel, Random& random) { return Conv2d(channel, channel, 1, {}, true, random); }
}  // namespace

SelfAttention::SelfAttention(std::int64_t channel, std::int64_t heads, Random& random)
    : n_heads(heads),
      proj_q(projection(channel, random)),
      proj_k(projection(channel, random)),
      proj_v(projection(channel, random)),
      proj_out(projection(channel, random)) {
  check(heads >= 1 && channel % heads == 0, "self_attention: {} heads do not divide {} channels", heads, channel);
}

Tensor SelfAttention::operator()(const Tensor& x) const {
  return proj_out(attention(proj_q(x), proj_k(x), proj_v(x), n_heads));
}

void SelfAttention::visit(Visitor& v) {
  v("proj_q", proj_q);
  v("proj_k", proj_k);
  v("proj_v", proj_v);
  v("proj_out", proj_out);
}

}  // namespace dattn
