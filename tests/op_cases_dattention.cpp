// Cases of DAttention: every option, other map sizes, odd sizes, one row or column.
#include <cmath>

#include "layers/dattention.h"
#include "layers/dattention_kernels.h"
#include "op_cases.h"

namespace dattn::test {

namespace {

// Whether a number is clear of the integers, where a bilinear sample has a kink.
bool clear(double at) { return std::abs(at - std::round(at)) > 0.01; }

// Whether every sampling point, as (y, x) pairs, lies clear of the borders between pixels, and every relative position
// of the cells of a table. A point that was clamped to the border stays there, and makes no kink.
bool clear_of_kinks(const DAttention& module, const Tensor& x, const Tensor& points) {
  for (std::int64_t i = 0; i < points.elements(); ++i) {
    const std::int64_t size = x.size(i % 2 == 0 ? 1 : 2);
    const std::int64_t table_size = i % 2 == 0 ? module.options.q_h : module.options.q_w;
    const double point = points.at(i);
    if (std::abs(point) == 1) continue;
    if (size > 1 && !clear((point + 1) / 2 * static_cast<double>(size - 1))) return false;
    if (module.bias.kind != BiasKind::table || table_size == 1) continue;
    for (std::int64_t query = 0; query < size; ++query) {
      if (!clear((dattention_query_coordinate(query, size) - point) / 2 * static_cast<double>(table_size - 1)))
        return false;
    }
  }
  return true;
}

// Biases beyond the reach of the weights, half of them negative: no hidden unit comes near the kink of its ReLU.
void settle_hidden_units(const DAttentionBias& bias) {
  for (std::int64_t i = 0; i < bias.w1.value().elements(); ++i) bias.w1.value().data<double>()[i] *= 0.4;
  for (std::int64_t i = 0; i < bias.b1.value().elements(); ++i) {
    double& b = bias.b1.value().data<double>()[i];
    b = i % 2 == 0 ? 2 + b : -2 + b;
  }
}

OpCase module_case(std::string name, DAttentionOptions options, Shape shape) {
  const auto make = [options, shape] {
    Random random(1, Purpose::init);
    OpInstance instance;
    for (std::uint32_t lane = 1;; ++lane) {
      DAttention module(options, random);
      const Tensor x = normal(shape, lane);
      const auto call = [](const DAttention& m, std::span<const Tensor> in) { return m(in[0]); };
      instance = module_instance(module, {{"x", x}}, call, 0.3);
      if (module.bias.kind == BiasKind::log_cpb) settle_hidden_units(module.bias);
      if (clear_of_kinks(module, x, module.positions(x))) return instance;
    }
  };
  // The gradient of a key projection goes through sums over the channels of the output and of the mix, over samples,
  // queries and images.
  const std::int64_t pixels = shape[1] * shape[2], channels = shape[3];
  return {"dattention_" + std::move(name), make, shape[0] * pixels * pixels * channels * channels,
          /*roundings=*/kNotInBfloat16};
}

bool belongs_to_operation(const NamedParameter& p) {
  return p.name.starts_with("proj_k.") || p.name.starts_with("proj_v.") || p.name.starts_with("rpe_table");
}

// The fused operation alone, whose sampling positions are the same in every type: x, q and offsets are inputs.
OpCase operation_case(std::string name, DAttentionOptions options, Shape shape) {
  options.use_pe = options.use_pe && !options.dwc_pe;  // whose encoding is outside
  const std::int64_t images = shape[0], height = shape[1], width = shape[2];
  const auto make = [=] {
    Random random(2, Purpose::init);
    const DAttention sizes(options, random);
    const Tensor grid = sizes.reference_points(images, height, width);  // [N,G,Hk,Wk,2]
    OpInstance instance;
    for (std::uint32_t lane = 1;; ++lane) {
      DAttention module(options, random);
      const Tensor x = normal(shape, lane), q = normal(shape, lane + 100);
      const Tensor offsets = normal({images, grid.size(2), grid.size(3), grid.size(1), 2}, lane + 200, 0.7);
      const auto call = [](const DAttention& m, std::span<const Tensor> in) {
        return dattention(in[0], in[1], in[2], m.proj_k.weight, m.proj_k.bias, m.proj_v.weight, m.proj_v.bias, m.bias,
                          m.options.n_heads, m.options.offset_range_factor, m.attn_drop.mask());
      };
      instance = module_instance(module, {{"x", x}, {"q", q}, {"offsets", offsets, true}}, call, 0.3);
      std::erase_if(instance.parameters, [](const NamedParameter& p) { return !belongs_to_operation(p); });
      if (module.bias.kind == BiasKind::log_cpb) settle_hidden_units(module.bias);
      Tensor points = Tensor::like(offsets);
      dattention_positions_forward(offsets, options.offset_range_factor, points);
      if (clear_of_kinks(module, x, points)) return instance;
    }
  };
  const std::int64_t pixels = height * width, channels = shape[3];
  // Twice the sum of a module case: queries come unscaled.
  return {"dattention_operation_" + std::move(name), make, 2 * images * pixels * pixels * channels * channels,
          /*roundings=*/4};
}

}  // namespace

std::vector<OpCase> dattention_cases() {
  const DAttentionOptions base{.channel = 8, .q_h = 4, .q_w = 3, .n_heads = 4, .n_groups = 2};
  const auto with = [&](auto change) {
    DAttentionOptions options = base;
    change(options);
    return options;
  };
  const auto encoding = [](bool fixed, bool log_cpb) {
    return [=](DAttentionOptions& o) { o.dwc_pe = false, o.fixed_pe = fixed, o.log_cpb = log_cpb; };
  };
  const DAttentionOptions table = with(encoding(false, false)), fixed = with(encoding(true, false)),
                          log_cpb = with(encoding(false, true));
  const auto table_with = [&](auto change) {
    DAttentionOptions options = table;
    change(options);
    return options;
  };
  return {
      module_case("dwc", base, {2, 4, 3, 8}),
      module_case("dwc_other_size", base, {1, 3, 5, 8}),
      module_case("stride2_ksize5", with([](auto& o) { o.q_h = 5, o.stride = 2, o.ksize = 5; }), {1, 5, 4, 8}),
      module_case("patch_stride", with([](auto& o) { o.q_w = 5, o.stride = 2, o.ksize = 2; }), {1, 4, 5, 8}),
      module_case("clamped", with([](auto& o) { o.offset_range_factor = -1; }), {1, 4, 3, 8}),
      module_case("no_range", with([](auto& o) { o.offset_range_factor = 0; }), {1, 4, 3, 8}),
      module_case("no_pe", {.channel = 6, .q_h = 3, .q_w = 4, .n_heads = 1, .n_groups = 1, .use_pe = false},
                  {1, 3, 4, 6}),
      module_case("no_off", with([](auto& o) { o.no_off = true; }), {1, 4, 3, 8}),
      module_case("no_off_stride2", with([](auto& o) { o.q_w = 6, o.stride = 2, o.no_off = true, o.use_pe = false; }),
                  {1, 4, 6, 8}),
      module_case("table", table, {2, 4, 3, 8}),
      module_case("table_other_size", table, {1, 3, 4, 8}),
      module_case("table_stride2", table_with([](auto& o) { o.q_h = 5, o.stride = 2; }), {1, 5, 3, 8}),
      module_case("table_clamped", table_with([](auto& o) { o.offset_range_factor = -1; }), {1, 4, 3, 8}),
      module_case("table_one_row", table_with([](auto& o) { o.q_h = 1, o.q_w = 5; }), {4, 1, 5, 8}),
      module_case("table_one_column", table_with([](auto& o) { o.q_h = 5, o.q_w = 1; }), {4, 5, 1, 8}),
      module_case("fixed", fixed, {2, 4, 3, 8}),
      module_case("fixed_odd_stride",
                  [&] {
                    DAttentionOptions o = fixed;
                    o.q_h = 5, o.stride = 2;
                    return o;
                  }(),
                  {1, 5, 3, 8}),
      module_case("log_cpb", log_cpb, {1, 3, 3, 8}),
      module_case("one_row", with([](auto& o) { o.q_h = 1, o.q_w = 6; }), {3, 1, 6, 8}),
      module_case("dropout", with([](auto& o) { o.attn_drop = 0.3, o.proj_drop = 0.2; }), {2, 4, 3, 8}),
      operation_case("plain", base, {2, 4, 3, 8}),
      operation_case("clamped", with([](auto& o) { o.offset_range_factor = -1; }), {1, 4, 3, 8}),
      operation_case("table", table, {2, 4, 3, 8}),
      operation_case("table_other_size", table, {1, 3, 4, 8}),
      operation_case("table_stride2", table_with([](auto& o) { o.q_h = 5, o.stride = 2; }), {1, 5, 3, 8}),
      operation_case("fixed", fixed, {2, 4, 3, 8}),
      operation_case("log_cpb", log_cpb, {1, 3, 3, 8}),
      operation_case("table_dropout", table_with([](auto& o) { o.attn_drop = 0.3; }), {1, 4, 3, 8}),
      module_case("table_dropout", table_with([](auto& o) { o.attn_drop = 0.3; }), {1, 4, 3, 8}),
  };
}

}  // namespace dattn::test
