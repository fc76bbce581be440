// DAttention: the fused operation against the composed one, its memory, the traps of the published code, names, counts
// and errors.
#include "layers/dattention.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "core/ops.h"
#include "dattention_reference.h"
#include "error_text.h"
#include "instruction_sets.h"
#include "op_cases.h"
#include "pick.h"
#include "small.h"

namespace dattn::test {
namespace {

struct Problem {
  std::int64_t images, height, width, channels, sample_height, sample_width, heads, groups;
  BiasKind kind = BiasKind::none;
  std::int64_t table_height = 0, table_width = 0;
  double factor = 4, drop = 0, score_scale = 1;
};

DAttentionInputs make_inputs(const Problem& p) {
  const std::int64_t samples = p.sample_height * p.sample_width,
                     per_group = p.heads / std::max<std::int64_t>(p.groups, 1);
  DAttentionInputs in;
  in.x = normal({p.images, p.height, p.width, p.channels}, 1);
  in.q = normal({p.images, p.height, p.width, p.channels}, 2, p.score_scale);
  in.offsets = normal({p.images, p.sample_height, p.sample_width, p.groups, 2}, 3, 0.5);
  in.wk = normal({p.channels, p.channels}, 4, 0.3), in.bk = normal({p.channels}, 5);
  in.wv = normal({p.channels, p.channels}, 6, 0.3), in.bv = normal({p.channels}, 7);
  in.kind = p.kind, in.heads = p.heads, in.factor = p.factor;
  if (p.kind == BiasKind::table) in.table = normal({p.heads, 2 * p.table_height - 1, 2 * p.table_width - 1}, 8);
  if (p.kind == BiasKind::fixed) in.table = normal({p.heads, p.height * p.width, samples}, 8);
  if (p.kind == BiasKind::log_cpb)
    in.w1 = normal({32, 2}, 9), in.b1 = normal({32}, 10), in.w2 = normal({per_group, 32}, 11, 0.3);
  if (p.drop > 0) in.mask = DropoutMask(p.drop, Random(5, Purpose::dropout));
  return in;
}

// Those that there are.
std::vector<Tensor*> tensors_of(DAttentionInputs& in) {
  std::vector<Tensor*> all{&in.x,  &in.q,     &in.offsets, &in.wk, &in.bk, &in.wv,
                           &in.bv, &in.table, &in.w1,      &in.b1, &in.w2};
  std::erase_if(all, [](const Tensor* t) { return !t->defined(); });
  return all;
}

// The same in float32.
DAttentionInputs rounded(DAttentionInputs in) {
  for (Tensor* t : tensors_of(in)) *t = t->to(Dtype::float32);
  return in;
}

struct FusedResult {
  Tensor y, dx, dq, doffsets;
  Parameter wk, bk, wv, bv;
  DAttentionBias bias;
};

Parameter parameter_of(const Tensor& x) { return x.defined() ? Parameter(x.clone(), Role::matrix) : Parameter(); }

FusedResult run_fused(const DAttentionInputs& in, const Tensor& dy) {
  FusedResult r;
  r.wk = parameter_of(in.wk), r.bk = parameter_of(in.bk), r.wv = parameter_of(in.wv), r.bv = parameter_of(in.bv);
  r.bias = {in.kind, parameter_of(in.table), parameter_of(in.w1), parameter_of(in.b1), parameter_of(in.w2)};
  Tensor x = in.x.clone(), q = in.q.clone(), offsets = in.offsets ? in.offsets.clone() : Tensor();
  x.track(), q.track();
  if (offsets) offsets.track();
  r.y = dattention(x, q, offsets, r.wk, r.bk, r.wv, r.bv, r.bias, in.heads, in.factor, in.mask);
  backward(r.y, dy);
  r.y = r.y.detach(), r.dx = x.grad(), r.dq = q.grad();
  if (offsets) r.doffsets = offsets.grad();
  return r;
}

// Largest difference over the larger of the largest expected value and `floor`.
void expect_close(const char* label, const Tensor& got, const Tensor& expected, double floor = 1e-3,
                  double bound = 1e-11) {
  ASSERT_TRUE(got.defined()) << label;
  ASSERT_EQ(got.elements(), expected.elements()) << label;
  double error = 0, largest = floor;
  for (std::int64_t i = 0; i < got.elements(); ++i) {
    const double d = std::abs(got.at(i) - expected.at(i));
    error = std::isnan(d) ? INFINITY : std::max(error, d);
    largest = std::max(largest, std::abs(expected.at(i)));
  }
  EXPECT_LE(error, bound * largest) << label;
}

void expect_fused_equals_composed(const Problem& p, bool with_offsets = true, double floor = 1e-3) {
  DAttentionInputs in = make_inputs(p);
  if (!with_offsets) in.offsets = {}, in.x = normal({p.images, p.sample_height, p.sample_width, p.channels}, 1);
  const Tensor dy = normal(in.q.shape(), 20);
  const FusedResult fused = run_fused(in, dy);
  for (Tensor* t : tensors_of(in)) t->track();
  const Tensor y = dattention_reference(in);
  expect_close("y", fused.y, y, floor);
  backward(y, dy);
  expect_close("dx", fused.dx, in.x.grad(), floor);
  expect_close("dq", fused.dq, in.q.grad(), floor);
  if (with_offsets) expect_close("doffsets", fused.doffsets, in.offsets.grad(), floor);
  expect_close("dwk", fused.wk.grad(), in.wk.grad(), floor);
  expect_close("dbk", fused.bk.grad(), in.bk.grad(), 1);
  expect_close("dwv", fused.wv.grad(), in.wv.grad(), floor);
  expect_close("dbv", fused.bv.grad(), in.bv.grad(), floor);
  if (in.table) expect_close("dtable", fused.bias.table.grad(), in.table.grad(), floor);
  if (!in.w1) return;
  expect_close("dw1", fused.bias.w1.grad(), in.w1.grad(), floor);
  expect_close("db1", fused.bias.b1.grad(), in.b1.grad(), floor);
  expect_close("dw2", fused.bias.w2.grad(), in.w2.grad(), floor);
}

// Queries and samples beyond one tile, and numbers of each that no tile divides.
TEST(DAttention, FusedEqualsComposed) { expect_fused_equals_composed({2, 11, 9, 16, 11, 9, 4, 2}); }
TEST(DAttention, FusedEqualsComposedWithManyImages) { expect_fused_equals_composed({37, 3, 5, 8, 2, 3, 2, 1}); }
TEST(DAttention, FusedEqualsComposedWithLargeHeads) { expect_fused_equals_composed({1, 5, 6, 38, 3, 3, 2, 2}); }
TEST(DAttention, FusedEqualsComposedWithLargeScores) {
  expect_fused_equals_composed({.images = 1,
                                .height = 12,
                                .width = 12,
                                .channels = 8,
                                .sample_height = 12,
                                .sample_width = 12,
                                .heads = 2,
                                .groups = 2,
                                .score_scale = 100});
}
TEST(DAttention, FusedEqualsComposedWithoutOffsets) { expect_fused_equals_composed({2, 6, 8, 8, 3, 4, 4, 2}, false); }
TEST(DAttention, FusedEqualsComposedWithClampedPositions) {
  expect_fused_equals_composed({.images = 2,
                                .height = 6,
                                .width = 7,
                                .channels = 8,
                                .sample_height = 6,
                                .sample_width = 7,
                                .heads = 2,
                                .groups = 2,
                                .factor = -1});
}
TEST(DAttention, FusedEqualsComposedWithDropout) {
  expect_fused_equals_composed({.images = 2,
                                .height = 9,
                                .width = 9,
                                .channels = 8,
                                .sample_height = 9,
                                .sample_width = 9,
                                .heads = 2,
                                .groups = 1,
                                .drop = 0.4});
}

// A map of the table's size goes the way of shifted windows, others that of general sampling.
TEST(DAttention, FusedEqualsComposedWithTable) {
  expect_fused_equals_composed({3, 7, 11, 8, 7, 11, 4, 2, BiasKind::table, 7, 11});
  expect_fused_equals_composed({1, 13, 4, 8, 6, 2, 2, 1, BiasKind::table, 13, 4});
  expect_fused_equals_composed({2, 1, 9, 8, 1, 9, 2, 2, BiasKind::table, 1, 9});
  expect_fused_equals_composed({2, 9, 1, 8, 9, 1, 2, 2, BiasKind::table, 9, 1});
  expect_fused_equals_composed({2, 1, 1, 8, 1, 1, 2, 2, BiasKind::table, 1, 1});
}
TEST(DAttention, FusedEqualsComposedWithBiasAndManyImages) {  // whose tasks have all heads
  for (const BiasKind kind : {BiasKind::table, BiasKind::log_cpb, BiasKind::fixed}) {
    expect_fused_equals_composed({35, 3, 5, 8, 2, 3, 4, 2, kind, 3, 5});
  }
}
TEST(DAttention, FusedEqualsComposedWithTableOfOtherSize) {
  expect_fused_equals_composed({2, 9, 6, 8, 9, 6, 4, 2, BiasKind::table, 5, 7});
  expect_fused_equals_composed({1, 3, 8, 8, 3, 8, 2, 1, BiasKind::table, 6, 8});
}
// Offsets far beyond the map: most windows see the table in part or not at all.
TEST(DAttention, FusedEqualsComposedWithTableFarOut) {
  for (const std::int64_t table_width : {6, 5}) {
    expect_fused_equals_composed({.images = 2,
                                  .height = 5,
                                  .width = 6,
                                  .channels = 8,
                                  .sample_height = 5,
                                  .sample_width = 6,
                                  .heads = 2,
                                  .groups = 2,
                                  .kind = BiasKind::table,
                                  .table_height = 5,
                                  .table_width = table_width,
                                  .factor = 20});
  }
}
// Of everything that is learnt, and the result, by name.
std::vector<std::pair<const char*, Tensor>> all_of(const FusedResult& r) {
  std::vector<std::pair<const char*, Tensor>> all{{"y", r.y}, {"dx", r.dx}, {"dq", r.dq}, {"doffsets", r.doffsets}};
  for (const auto& [label, p] : {std::pair("dwk", r.wk),
                                 {"dbk", r.bk},
                                 {"dwv", r.wv},
                                 {"dbv", r.bv},
                                 {"dtable", r.bias.table},
                                 {"dw1", r.bias.w1},
                                 {"db1", r.bias.b1},
                                 {"dw2", r.bias.w2}}) {
    if (p) all.emplace_back(label, p.grad());
  }
  return all;
}

Problem random_problem(Pick& pick) {
  Problem p;
  p.groups = pick(1, 3), p.heads = p.groups * pick(1, 3);
  p.channels = p.heads * (pick(1, 2) == 1 ? 4 * pick(1, 4) : pick(1, 9));
  p.images = pick(1, 8) == 8 ? 33 : pick(1, 3);  // or as many as tasks with all heads
  p.height = pick(1, 12), p.width = pick(1, 20);
  p.sample_height = p.height, p.sample_width = p.width;  // x has the shape of q where it is sampled
  if (pick(1, 2) == 1) p.sample_height = pick(1, p.height), p.sample_width = pick(1, p.width);
  p.kind = std::array{BiasKind::none, BiasKind::table, BiasKind::fixed,
                      BiasKind::log_cpb}[static_cast<std::size_t>(pick(0, 3))];
  p.table_height = pick(1, 3) == 3 ? pick(1, 12) : p.height, p.table_width = pick(1, 3) == 3 ? pick(1, 12) : p.width;
  p.factor = std::array{4.0, 1.0, 20.0, -1.0}[static_cast<std::size_t>(pick(0, 3))];
  p.drop = pick(1, 4) == 4 ? 0.3 : 0, p.score_scale = pick(1, 4) == 4 ? 30 : 1;
  return p;
}

// In float64 against the composed operation, in float32 against float64, with every instruction set.
TEST(DAttention, RandomSizes) {
  Pick pick(1);
  for (int round = 0; round < rounds(100); ++round) {
    const Problem p = random_problem(pick);
    SCOPED_TRACE(testing::Message() << p.images << " images " << p.height << "x" << p.width << "x" << p.channels
                                    << ", samples " << p.sample_height << "x" << p.sample_width << ", heads " << p.heads
                                    << ", groups " << p.groups << ", bias " << static_cast<int>(p.kind) << ", table "
                                    << p.table_height << "x" << p.table_width << ", factor " << p.factor << ", drop "
                                    << p.drop << ", scores " << p.score_scale);
    // A gradient that cancels, as all of scores do where there is one sample, is compared with those that do not.
    on_every_instruction_set([&] { expect_fused_equals_composed(p, true, 1); });
    // Rounded scores of this size are other scores, and a rounded hidden unit may be on the other side of its kink.
    if (p.score_scale > 1 || p.kind == BiasKind::log_cpb) continue;
    const DAttentionInputs in = make_inputs(p);
    const Tensor dy = normal(in.q.shape(), 20);
    const auto expected = all_of(run_fused(in, dy));
    on_every_instruction_set([&] {
      const auto got = all_of(run_fused(rounded(in), dy.to(Dtype::float32)));
      for (std::size_t i = 0; i < got.size(); ++i) {
        expect_close(expected[i].first, got[i].second.to(Dtype::float64), expected[i].second, 1, 1e-3);
      }
    });
    if (HasFailure()) return;
  }
}

TEST(DAttention, FusedEqualsComposedWithFixedTable) {
  expect_fused_equals_composed({3, 7, 9, 8, 4, 5, 4, 2, BiasKind::fixed});
  expect_fused_equals_composed({1, 12, 10, 8, 12, 10, 2, 2, BiasKind::fixed});
}
TEST(DAttention, FusedEqualsComposedWithLogCpb) {
  expect_fused_equals_composed({2, 7, 9, 8, 7, 9, 4, 2, BiasKind::log_cpb});
  expect_fused_equals_composed({1, 12, 5, 8, 6, 3, 2, 2, BiasKind::log_cpb});
}

DAttention make(const DAttentionOptions& options) {
  Random random(3, Purpose::init);
  return DAttention(options, random);
}

// The scores of this call alone would take 2 * 4096 * 4096 * 4 bytes = 128 MiB; tensors of its size take 256 KiB.
TEST(DAttention, AnEmptyBatchIsNoError) {
  Random random(1, Purpose::init);
  DAttentionOptions options{.channel = 8, .q_h = 4, .q_w = 3, .n_heads = 2, .n_groups = 2};
  for (const bool dwc : {true, false}) {
    options.dwc_pe = dwc;
    const DAttention attention(options, random);
    const Tensor x = Tensor::zeros({0, 4, 3, 8}).track();
    const Tensor y = attention(x);
    EXPECT_EQ(y.shape(), x.shape());
    backward(y, Tensor::zeros(y.shape()));
    EXPECT_EQ(x.grad().shape(), x.shape());
  }
}

TEST(DAttention, MemoryIsLinearInPixels) {
  DAttentionOptions options{.channel = 16, .q_h = 64, .q_w = 64, .n_heads = 2, .n_groups = 2, .dwc_pe = false};
  const DAttention module = make(options);
  Tensor x = normal({1, 64, 64, 16}, 1).to(Dtype::float32);
  x.track();
  const std::size_t before = pool::statistics().in_use;
  pool::reset_peak();
  backward(module(x), normal({1, 64, 64, 16}, 2).to(Dtype::float32));
  EXPECT_LT(pool::statistics().peak_in_use - before, 48u << 20);
}

TEST(DAttention, NamesAreThePublishedOnes) {
  const auto names = [](DAttentionOptions options) {
    DAttention module = make(options);
    std::vector<std::string> all;
    for (const auto& [name, p] : parameters(module)) all.push_back(name);
    return all;
  };
  const std::vector<std::string> common{"conv_offset.0.weight",
                                        "conv_offset.0.bias",
                                        "conv_offset.1.norm.weight",
                                        "conv_offset.1.norm.bias",
                                        "conv_offset.3.weight",
                                        "proj_q.weight",
                                        "proj_q.bias",
                                        "proj_k.weight",
                                        "proj_k.bias",
                                        "proj_v.weight",
                                        "proj_v.bias",
                                        "proj_out.weight",
                                        "proj_out.bias"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), common.begin(), common.end());
    return more;
  };
  EXPECT_EQ(names({.channel = 8, .q_h = 4, .q_w = 4}), with({"rpe_table.weight", "rpe_table.bias"}));
  EXPECT_EQ(names({.channel = 8, .q_h = 4, .q_w = 4, .dwc_pe = false}), with({"rpe_table"}));
  EXPECT_EQ(names({.channel = 8, .q_h = 4, .q_w = 4, .dwc_pe = false, .log_cpb = true}),
            with({"rpe_table.0.weight", "rpe_table.0.bias", "rpe_table.2.weight"}));
  EXPECT_EQ(names({.channel = 8, .q_h = 4, .q_w = 4, .use_pe = false}), common);
  EXPECT_EQ(names({.channel = 8, .q_h = 4, .q_w = 4, .dwc_pe = false, .no_off = true}), common);
}

std::int64_t count(DAttentionOptions options) {
  DAttention module = make(options);
  return parameter_count(module);
}

TEST(DAttention, ParameterCounts) {
  const DAttentionOptions options{.channel = 64, .q_h = 32, .q_w = 32};
  DAttentionOptions none = options, table = options, fixed = options;
  none.use_pe = false, table.dwc_pe = false, fixed.dwc_pe = false, fixed.fixed_pe = true;
  EXPECT_EQ(count(options), 17504);
  EXPECT_EQ(count(options) - count(none), 640);
  EXPECT_EQ(count(table) - count(none), 31752);
  EXPECT_EQ(count(fixed) - count(none), 8388608);
}

// --- traps of the published code ---

// One row: divides by zero there; here its reference point and query coordinate are 0.
TEST(DAttention, OneRowHasItsReferenceAtZero) {
  const DAttention module = make({.channel = 8, .q_h = 1, .q_w = 4, .n_heads = 2, .n_groups = 2});
  const Tensor points = module.reference_points(1, 1, 4);  // [1,2,1,4,2]
  for (std::int64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(points.at(2 * i), 0);
    EXPECT_FLOAT_EQ(static_cast<float>(points.at(2 * i + 1)), (static_cast<float>(i) + 0.5f) / 3 * 2 - 1);
  }
  const Tensor moved = module.positions(normal({1, 1, 4, 8}, 1).to(Dtype::float32));
  for (std::int64_t i = 0; i < moved.elements(); ++i)
    EXPECT_LE(std::abs(moved.at(i) - points.at(i)), i % 2 == 0 ? 4 : 4.0 / 3 + 1e-6);
}

// Crashes there; here the convolutional encoding is kept.
TEST(DAttention, NoOffKeepsTheConvolutionalEncoding) {
  DAttention module = make({.channel = 8, .q_h = 4, .q_w = 4, .no_off = true});
  ASSERT_TRUE(module.dwc);
  convert(module, Dtype::float64);
  const Tensor x = normal({1, 4, 4, 8}, 1);
  const Tensor before = module(x);
  module.dwc->bias.value().fill(1);
  module.dwc->weight.value().fill(0);
  const Tensor after = module(x);
  EXPECT_GT(std::abs(before.at(0) - after.at(0)), 1e-6);
}

// Sized by h // stride there; here by the samples that there are.
TEST(DAttention, FixedTableHasAColumnForEverySample) {
  const DAttention module = make({.channel = 8, .q_h = 5, .q_w = 4, .stride = 2, .dwc_pe = false, .fixed_pe = true});
  EXPECT_EQ(module.bias.table.shape(), (Shape{8, 20, 3 * 2}));
  EXPECT_EQ(module.positions(normal({1, 5, 4, 8}, 1).to(Dtype::float32)).shape(), (Shape{1, 4, 3, 2, 2}));
}

// The last reference point lies outside of the map, where samples are zero: kept.
TEST(DAttention, LastReferencePointLiesOutside) {
  const DAttention module = make({.channel = 8, .q_h = 4, .q_w = 4, .n_heads = 2, .n_groups = 1});
  const Tensor points = module.reference_points(1, 4, 4);
  EXPECT_GT(points.at(points.elements() - 1), 1);
}

TEST(DAttention, KernelOfTheStrideHasNoPadding) {
  const DAttention module = make({.channel = 8, .q_h = 8, .q_w = 8, .stride = 4, .ksize = 4});
  EXPECT_EQ(module.reference_points(1, 8, 8).shape(), (Shape{1, 4, 2, 2, 2}));
}

// At whole pixels, where the gradient of a position has a kink, the value has none.
TEST(DAttention, SamplesAtPixelCentresAreThePixels) {
  DAttentionInputs in = make_inputs({1, 3, 3, 4, 3, 3, 1, 1});
  in.factor = -1;  // positions are r + o
  for (std::int64_t i = 0; i < 18; ++i) {
    const std::int64_t place = i % 2 == 0 ? i / 2 / 3 : i / 2 % 3;
    in.offsets.data<double>()[i] = static_cast<double>(place - 1) - dattention_reference_point(place, 3);
  }
  const Tensor dy = normal(in.q.shape(), 20);
  const FusedResult moved = run_fused(in, dy);
  in.offsets = {};
  const FusedResult direct = run_fused(in, dy);
  expect_close("y", moved.y, direct.y);
  expect_close("dx", moved.dx, direct.dx);
}

TEST(DAttention, OffsetsThatAreNoNumbersShow) {
  DAttentionInputs in = make_inputs({1, 4, 4, 4, 4, 4, 1, 1});
  in.offsets.data<double>()[5] = NAN;
  for (const double factor : {4.0, -1.0}) {  // limited by tanh, and clamped
    in.factor = factor;
    EXPECT_TRUE(std::isnan(run_fused(in, normal(in.q.shape(), 20)).y.at(0))) << factor;
  }
}

TEST(DAttention, ParametersOfTheLogBiasThatAreNoNumbersShow) {
  DAttentionInputs in = make_inputs({1, 4, 4, 4, 4, 4, 1, 1, BiasKind::log_cpb});
  in.b1.data<double>()[5] = NAN;
  on_every_instruction_set([&] { EXPECT_TRUE(std::isnan(run_fused(in, normal(in.q.shape(), 20)).y.at(0))); });
}

TEST(DAttention, OneChannelIsEnough) {
  Random random(1, Purpose::test);
  DAttention one({.channel = 1, .q_h = 4, .q_w = 4, .n_heads = 1, .n_groups = 1}, random);
  EXPECT_EQ(one(Tensor::full({2, 4, 4, 1}, 0.5)).shape(), (Shape{2, 4, 4, 1}));
}

// --- errors ---

TEST(DAttention, RefusesImpossibleOptions) {
  const auto error = [](DAttentionOptions options) { return error_text([&] { make(options); }); };
  EXPECT_EQ(error({.channel = 60, .q_h = 8, .q_w = 8}), "DAttention: channel 60 is not divisible by n_heads 8");
  EXPECT_EQ(error({.channel = 64, .q_h = 8, .q_w = 8, .n_groups = 3}),
            "DAttention: channel 64 is not divisible by n_groups 3");
  EXPECT_EQ(error({.channel = 64, .q_h = 8, .q_w = 8, .n_heads = 2}),
            "DAttention: n_heads 2 is not divisible by n_groups 4");
  EXPECT_EQ(error({.channel = 64, .q_h = 8, .q_w = 4, .stride = 5}),
            "DAttention: stride 5 is beyond the map of 8 x 4 pixels");
  EXPECT_EQ(error({.channel = 64, .q_h = 8, .q_w = 4, .ksize = 0}), "DAttention: expected ksize of at least 1, got 0");
  EXPECT_EQ(error({.channel = 64, .q_h = 8, .q_w = 8, .attn_drop = 1}),
            "DAttention: expected 0 <= attn_drop < 1, got 1");
  EXPECT_EQ(error({.channel = 64, .q_h = 8, .q_w = 8, .proj_drop = -0.5}),
            "DAttention: expected 0 <= proj_drop < 1, got -0.5");
  EXPECT_EQ(error({.channel = 64, .q_h = 0, .q_w = 8}), "DAttention: expected q_h of at least 1, got 0");
  EXPECT_EQ(error({.channel = 64, .q_h = 8, .q_w = 8, .offset_range_factor = NAN}),
            "DAttention: expected a finite offset_range_factor, got nan");
  EXPECT_EQ(
      error({.channel = 64, .q_h = 5, .q_w = 4, .stride = 2, .no_off = true}),
      "DAttention: no_off pools 5 x 4 pixels with stride 2 to 2 x 2 samples, the offset grid of ksize 3 has 3 x 2\n"
      "hint: choose stride and ksize so that both agree, such as a stride that divides the map");
}

TEST(DAttention, RefusesInputsThatDoNotFit) {
  const auto error = [](DAttentionOptions options, Shape shape) {
    const DAttention module = make(options);
    return error_text([&] { module(Tensor::zeros(shape)); });
  };
  const DAttentionOptions options{.channel = 8, .q_h = 4, .q_w = 6};
  DAttentionOptions fixed = options, stride = options, no_off = options;
  fixed.dwc_pe = false, fixed.fixed_pe = true, stride.stride = 3, no_off.no_off = true, no_off.stride = 2;
  EXPECT_EQ(error(options, {4, 6, 8}), "DAttention: expected images [N,H,W,C], got x [4,6,8] float32");
  EXPECT_EQ(error(options, {1, 4, 6, 9}), "DAttention: channel is 8, the input has 9 (x [1,4,6,9] float32)");
  EXPECT_EQ(error(fixed, {1, 6, 4, 8}),
            "DAttention: fixed_pe is a table for maps of 4 x 6 pixels, got 6 x 4 (x [1,6,4,8] float32)");
  EXPECT_EQ(error(stride, {1, 2, 6, 8}), "DAttention: stride 3 is beyond the map of 2 x 6 pixels");
  EXPECT_EQ(error(no_off, {1, 5, 6, 8}).substr(0, 78),
            "DAttention: no_off pools 5 x 6 pixels with stride 2 to 2 x 3 samples, the offs");
}

TEST(DAttention, FusedOperationRefusesWhatDoesNotMatch) {
  DAttentionInputs in = make_inputs({1, 4, 4, 8, 4, 4, 2, 2});
  const Tensor dy = normal(in.q.shape(), 20);
  const auto error = [&](auto change) {
    DAttentionInputs wrong = in;
    change(wrong);
    return error_text([&] { run_fused(wrong, dy); });
  };
  EXPECT_EQ(error([](auto& i) { i.heads = 3; }),
            "dattention: 3 heads do not divide 8 channels (x [1,4,4,8] float64, q [1,4,4,8] float64, offsets "
            "[1,4,4,2,2] float64)");
  EXPECT_EQ(error([](auto& i) {
              i.wk = normal({8, 4}, 1);
            }),
            "dattention: expected projections [8,1,1,8] (x [1,4,4,8] float64, q [1,4,4,8] float64, offsets [1,4,4,2,2] "
            "float64)");
  EXPECT_EQ(error([](auto& i) {
              i.kind = BiasKind::table, i.table = normal({2, 4, 7}, 1);
            }),
            "dattention: expected a bias table [2, 2h-1, 2w-1], got table [2,4,7] float64");
  EXPECT_EQ(error([](auto& i) {
              i.kind = BiasKind::fixed, i.table = normal({2, 16, 15}, 1);
            }),
            "dattention: expected table [2,16,16] float64, got table [2,16,15] float64 (q [1,4,4,8] float64)");
}

}  // namespace
}  // namespace dattn::test
