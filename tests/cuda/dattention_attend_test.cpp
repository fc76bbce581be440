// DAttention's scores, softmax and mix on the device against the CPU's float64: every bias, with and without dropout,
// at head sizes, maps and batches that take every path of the kernels.
#include <gtest/gtest.h>

#include <cmath>

#include "cuda/enable.h"
#include "layers/dattention_kernels.h"
#include "order.h"
#include "slots.h"

namespace dattn::test {
namespace {

struct Setting {
  const char* name;
  std::int64_t images, height, width, sample_rows, sample_columns, heads, head_channels, groups;
  BiasKind bias = BiasKind::none;
  std::int64_t table_height = 0, table_width = 0, hidden = 0;
  double dropout = 0;
  Dtype dtype = Dtype::float32;

  std::int64_t queries() const { return height * width; }
  std::int64_t samples() const { return sample_rows * sample_columns; }
  std::int64_t channels() const { return heads * head_channels; }
};

void PrintTo(const Setting& s, std::ostream* out) { *out << s.name; }

// Inputs, parameters and results of one device; gradients of parameters start at one, as they are added to.
struct Attend {
  Tensor q, k, v, positions, dmix;
  DAttentionBias bias;
  DropoutMask mask;
  Tensor mix, lse, dq, dk, dv, dpositions;

  Attend(const Setting& s, Device device, Dtype activations, Dtype exact) {
    const auto made = [&](const Shape& shape, std::uint32_t lane, double scale = 1) {
      return normal(shape, lane, scale).to(s.dtype).to(activations).to(device);
    };
    const Shape map{s.images, s.height, s.width, s.channels()};
    const Shape grid{s.images, s.sample_rows, s.sample_columns, s.channels()};
    q = made(map, 1), k = made(grid, 2), v = made(grid, 3), dmix = made(map, 4);
    bias.kind = s.bias;
    if (bias.moves()) {
      positions = normal({s.images, s.sample_rows, s.sample_columns, s.groups, 2}, 5, 0.8);
      positions.data<double>()[0] = 1e7;  // far away
      positions = positions.to(Dtype::float32).to(exact).to(device);
    }
    const auto parameter = [&](const Shape& shape, std::uint32_t lane) {
      Parameter p(normal(shape, lane, 0.7).to(Dtype::float32).to(exact).to(device), Role::table);
      p.grad().fill(1);
      return p;
    };
    if (s.bias == BiasKind::table) bias.table = parameter({s.heads, 2 * s.table_height - 1, 2 * s.table_width - 1}, 6);
    if (s.bias == BiasKind::fixed) bias.table = parameter({s.heads, s.queries(), s.samples()}, 6);
    if (s.bias == BiasKind::log_cpb) {
      bias.w1 = parameter({s.hidden, 2}, 6), bias.b1 = parameter({s.hidden}, 7);
      bias.w2 = parameter({s.heads / s.groups, s.hidden}, 8);
    }
    if (s.dropout > 0) mask = DropoutMask(s.dropout, Random(3, Purpose::test));
    mix = Tensor::empty(map, exact, device);
    lse = Tensor::empty({s.images, s.heads, s.queries()}, exact, device);
    dq = Tensor::like(q), dk = Tensor::empty(grid, exact, device), dv = Tensor::like(dk);
    if (bias.moves()) dpositions = Tensor::like(positions);
  }

  void run() {
    dattention_attend_forward(q, k, v, positions, bias, mask, mix, lse);
    dattention_attend_backward(dmix, q, k, v, positions, bias, mask, mix, lse, dq, dk, dv, dpositions);
  }

  std::vector<std::pair<const char*, Tensor>> results() const {
    std::vector<std::pair<const char*, Tensor>> all{{"mix", mix}, {"lse", lse}, {"dq", dq}, {"dk", dk}, {"dv", dv}};
    if (bias.moves()) all.emplace_back("dpositions", dpositions);
    if (bias.table) all.emplace_back("dtable", bias.table.grad());
    if (bias.w1) {
      all.emplace_back("dw1", bias.w1.grad()), all.emplace_back("db1", bias.b1.grad());
      all.emplace_back("dw2", bias.w2.grad());
    }
    return all;
  }
};

class CudaAttend : public testing::TestWithParam<Setting> {
 protected:
  void SetUp() override { cuda::enable(); }
  void TearDown() override { run_in_order(0); }
};

TEST_P(CudaAttend, IsCloseToTheCpu) {
  const Setting& s = GetParam();
  Attend here(s, Device::cpu, Dtype::float64, Dtype::float64), there(s, Device::cuda, s.dtype, Dtype::float32);
  here.run();
  there.run();
  const auto expected = here.results(), got = there.results();
  // A position in float32 is off by so much of a cell on a map of this size.
  const double place = 1e-7 * static_cast<double>(s.height + s.width);
  const double bound = (s.dtype == Dtype::bfloat16 ? 0x1p-7 : 0) + place +
                       float_bound(s.images * s.queries() * s.samples() + s.head_channels);
  for (std::size_t i = 0; i < got.size(); ++i) expect_near(got[i].second, expected[i].second, bound, got[i].first);
}

TEST_P(CudaAttend, SameBitsInAnotherOrder) {
  Attend first(GetParam(), Device::cuda, GetParam().dtype, Dtype::float32);
  first.run();
  run_in_order(1);
  Attend second(GetParam(), Device::cuda, GetParam().dtype, Dtype::float32);
  second.run();
  const auto a = first.results(), b = second.results();
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(same_bits(a[i].second.to(Device::cpu), b[i].second.to(Device::cpu))) << a[i].first;
  }
}

TEST(CudaAttendLogBias, ShowsParametersThatAreNoNumbers) {
  cuda::enable();
  Attend there({"", 1, 3, 3, 2, 2, 1, 4, 1, BiasKind::log_cpb, 0, 0, 5}, Device::cuda, Dtype::float32, Dtype::float32);
  there.bias.b1.value().slice(3, 4).fill(NAN);
  there.run();
  for (const Tensor& result : {there.mix, there.lse, there.dq, there.bias.b1.grad().slice(3, 4)}) {
    EXPECT_TRUE(std::isnan(result.to(Device::cpu).at(0)));
  }
}

// The same setting without dropout, with it, and with rounded activations.
std::vector<Setting> settings() {
  const std::vector<Setting> base{
      {"plain", 2, 5, 7, 3, 5, 3, 8, 1},
      {"odd_heads", 1, 13, 11, 7, 9, 2, 5, 1},
      {"many_samples", 1, 3, 2, 11, 13, 1, 12, 1},
      {"heads_of_40", 1, 5, 4, 3, 3, 2, 40, 1},
      {"heads_of_64", 1, 9, 5, 6, 6, 1, 64, 1},
      {"heads_of_150", 1, 3, 4, 3, 2, 1, 150, 1},
      {"queries_in_parts", 1, 20, 31, 2, 3, 2, 6, 1},
      {"table", 3, 9, 7, 4, 6, 4, 8, 2, BiasKind::table, 9, 7},
      {"table_wide_map", 1, 3, 70, 2, 5, 2, 16, 1, BiasKind::table, 3, 70},
      {"table_heads_of_32", 1, 6, 5, 3, 4, 2, 32, 2, BiasKind::table, 6, 5},
      {"table_many_images", 270, 2, 2, 2, 1, 4, 2, 1, BiasKind::table, 2, 2},
      {"table_beyond_shared_memory", 2, 3, 2001, 2, 3, 2, 6, 1, BiasKind::table, 3, 2001},
      {"table_row_beyond_a_block", 1, 1, 8500, 1, 2, 1, 2, 1, BiasKind::table, 1, 8500},
      {"table_smaller_than_map", 2, 9, 11, 3, 4, 4, 8, 2, BiasKind::table, 4, 5},
      {"table_larger_than_map", 1, 3, 5, 3, 4, 2, 6, 1, BiasKind::table, 7, 8},
      {"table_of_one", 1, 3, 5, 3, 4, 2, 6, 1, BiasKind::table, 1, 1},
      {"table_on_one_row", 1, 1, 5, 3, 4, 2, 6, 1, BiasKind::table, 3, 2},
      {"fixed", 3, 9, 7, 4, 9, 2, 8, 1, BiasKind::fixed},
      {"log_cpb", 2, 7, 6, 4, 3, 4, 8, 2, BiasKind::log_cpb, 0, 0, 37},
      {"log_cpb_many_images", 17, 3, 2, 2, 1, 4, 2, 2, BiasKind::log_cpb, 0, 0, 5},
  };
  std::vector<Setting> all = base;
  for (Setting s : base) {
    if (s.images * s.queries() > 1000 && s.name != std::string_view("table_beyond_shared_memory")) continue;  // long
    s.dropout = 0.3;
    all.push_back(s);
    s.dropout = 0, s.dtype = Dtype::bfloat16;
    all.push_back(s);
  }
  return all;
}

std::string setting_name(const testing::TestParamInfo<Setting>& info) {
  return fmt::format("{}{}{}", info.param.name, info.param.dropout > 0 ? "_dropout" : "",
                     info.param.dtype == Dtype::bfloat16 ? "_bfloat16" : "");
}

INSTANTIATE_TEST_SUITE_P(Slots, CudaAttend, testing::ValuesIn(settings()), setting_name);

}  // namespace
}  // namespace dattn::test
