// Cases of layers/self_attention.
#include "layers/self_attention.h"
#include "op_cases.h"

namespace dattn::test {

namespace {

OpCase attending(const char* name, const Shape& queries, const Shape& keys, std::int64_t heads, double size = 1) {
  return {name,
          [=] {
            return OpInstance{{{"q", normal(queries, 1, size)}, {"k", normal(keys, 2)}, {"v", normal(keys, 3)}},
                              {},
                              [=](std::span<const Tensor> in) { return attention(in[0], in[1], in[2], heads); },
                              {}};
          },
          // Exponentials are as inexact as the scores are large.
          static_cast<std::int64_t>(size) * (keys.rows() + queries.rows()),
          /*roundings=*/size == 1 ? 2 : kNotInBfloat16};
}

}  // namespace

std::vector<OpCase> attention_cases() {
  return {
      attending("attention", {2, 7, 6}, {2, 7, 6}, 2),
      attending("attention_images", {2, 3, 5, 8}, {2, 3, 5, 8}, 1),
      attending("attention_one_channel_heads", {3, 5, 3}, {3, 9, 3}, 3),
      attending("attention_two_keys", {1, 5, 4}, {1, 2, 4}, 2),
      attending("attention_one_query", {2, 1, 10}, {2, 11, 10}, 2),
      attending("attention_many_keys", {1, 3, 5}, {1, 151, 5}, 1),
      attending("attention_many_queries", {1, 131, 6}, {1, 3, 6}, 2),
      attending("attention_heads_of_four", {2, 7, 8}, {2, 5, 8}, 2),
      attending("attention_heads_of_eight", {1, 9, 16}, {1, 11, 16}, 2),
      attending("attention_large_scores", {1, 131, 8}, {1, 70, 8}, 1, 30),
      attending("attention_wide_heads", {1, 5, 38}, {1, 9, 38}, 2),
      attending("attention_many_images", {37, 2, 4}, {37, 3, 4}, 2),
      // The gradient of a key projection's bias is zero by theory: what is left goes through sums over the channels of
      // the output and of the mix, over keys, queries and images.
      {"self_attention",
       [] {
         Random random(1, Purpose::init);
         const auto call = [](SelfAttention& m, std::span<const Tensor> in) { return m(in[0]); };
         return module_instance(SelfAttention(6, 3, random), {{"x", normal({2, 3, 5, 6}, 1)}}, call, 0.3);
       },
       2 * 15 * 15 * 6 * 6,
       /*roundings=*/4,
       // Gradients of keys are rounded one by one, so those of a projection's bias do not cancel.
       /*share=*/0.1},
  };
}

}  // namespace dattn::test
