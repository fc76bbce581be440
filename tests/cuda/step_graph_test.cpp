// Recorded steps: replays give the bits of steps that the host runs, ask for nothing, and keep their memory; what
// cannot be replayed is refused.
#include "cuda/step_graph.h"

#include <gtest/gtest.h>

#include <optional>

#include "core/autograd.h"
#include "core/flat_parameters.h"
#include "core/ops.h"
#include "core/rows.h"
#include "cuda/enable.h"
#include "cuda/memory.h"
#include "error_text.h"
#include "layers/batchnorm_gelu.h"
#include "layers/conv2d_max_pool.h"
#include "layers/dattention.h"
#include "layers/loss.h"
#include "layers/pool2d.h"
#include "op_cases.h"
#include "op_compare.h"

#if defined(DATTN_CUDA_EMULATED)
#include "cuda_emulation/runtime.h"
#endif

namespace dattn::cuda {
namespace {

using test::error_text;
using test::normal;
using test::same_bits;

// Convolutions with and without pooling, BatchNorm with GELU, DAttention with its table, pooling, a linear layer;
// dropout of images, of weights and outputs of attention, and of features.
struct Network {
  Random random{1, Purpose::init};
  Conv2d conv{3, 16, 3, {.padding = 1}, false, random}, wide{16, 16, 3, {.padding = 1}, false, random};
  BatchNorm2d norm{16};
  DAttention attention;
  Linear head{16, 5, true, random};
  Dropout dropout;
  DropPath drop_path;

  explicit Network(double drop)
      : attention({.channel = 16,
                   .q_h = 4,
                   .q_w = 4,
                   .n_heads = 2,
                   .n_groups = 1,
                   .attn_drop = drop,
                   .proj_drop = drop,
                   .dwc_pe = false},
                  random),
        dropout(drop, random),
        drop_path(drop, random) {}

  void visit(Visitor& v) {
    v("conv", conv);
    v("wide", wide);
    v("norm", norm);
    v("attention", attention);
    v("head", head);
  }
  Tensor operator()(const Tensor& images) {
    Tensor x = batchnorm_gelu(wide(conv2d_max_pool2(images, conv)), norm);  // [N,4,4,16]
    x = max_pool2d(add(x, drop_path(attention(x))), 4);
    return head(dropout(cast(reshape(x, {x.size(0), 16}), Dtype::float32)));
  }
};

// Training of the network on the device by steepest descent; each step's images are put into their place beforehand.
class Training {
 public:
  explicit Training(Dtype precision, double drop = 0) : network_(drop) {
    move_to(network_, Device::cuda);
    flat_.emplace(std::vector<std::vector<NamedParameter>>{parameters(network_)});
    images_ = Tensor::empty({3, 8, 8, 3}, precision, Device::cuda);
    labels_ = Tensor::from<std::int64_t>({3}, std::vector<std::int64_t>{4, 0, 2}).to(Device::cuda);
    change_ = Tensor::like(flat_->values());
    loss_ = Tensor::empty({}, Dtype::float32, Device::cuda);
  }

  void take_batch(int number) {
    images_.copy_from(normal(images_.shape(), static_cast<std::uint32_t>(number)).to(images_.dtype()));
  }

  void step() {
    ++calls;
    flat_->zero_grad();
    const Tensor loss = cross_entropy(network_(images_), labels_, 0.2);
    loss_.copy_from(loss);
    backward(loss);
    Tensor values = flat_->values();
    scale_forward(flat_->grads(), -0.1, change_);
    add_forward(values, change_, values);
  }

  // The same with numbers of dropout from a step on the device, which it counts.
  void recordable_step() {
    const RandomStepOnDevice random_step(number_.data<std::int64_t>());
    step();
    advance(number_);
  }

  // All that a step changes.
  std::vector<Tensor> state() {
    std::vector<Tensor> all{loss_.to(Device::cpu), flat_->values().to(Device::cpu), flat_->grads().to(Device::cpu)};
    for (const auto& [name, buffer] : buffers(network_)) all.push_back(buffer.to(Device::cpu));
    return all;
  }

  int calls = 0;

 private:
  Network network_;
  std::optional<FlatParameters> flat_;
  Tensor images_, labels_, change_, loss_;
  Tensor number_ = Tensor::zeros({}, Dtype::int64, Device::cuda);
};

class CudaStepGraph : public testing::Test {
 protected:
  void SetUp() override { enable(); }
};

TEST_F(CudaStepGraph, ReplaysGiveTheBitsOfCalls) {
  for (const Dtype precision : {Dtype::float32, Dtype::bfloat16}) {
    Training called(precision), replayed(precision);
    StepGraph graph;
    for (int i = 0; i < 6; ++i) {
      called.take_batch(i), replayed.take_batch(i);
      called.step();
      graph.run([&] { replayed.step(); });
      const auto expected = called.state(), got = replayed.state();
      for (std::size_t j = 0; j < got.size(); ++j)
        EXPECT_TRUE(same_bits(got[j], expected[j])) << name(precision) << ", step " << i << ", tensor " << j;
    }
    EXPECT_EQ(replayed.calls, 3);  // the last for the record
  }
}

TEST_F(CudaStepGraph, EachReplayDrawsTheMasksOfItsStep) {
  const RandomState before = random_state();
  for (const Dtype precision : {Dtype::float32, Dtype::bfloat16}) {
    Training called(precision, 0.3), replayed(precision, 0.3);
    StepGraph graph;
    for (int i = 0; i < 6; ++i) {
      called.take_batch(i), replayed.take_batch(i);
      set_random_step(8, static_cast<std::uint64_t>(i));
      called.step();
      graph.run([&] { replayed.recordable_step(); });
      const auto expected = called.state(), got = replayed.state();
      for (std::size_t j = 0; j < got.size(); ++j)
        EXPECT_TRUE(same_bits(got[j], expected[j])) << name(precision) << ", step " << i << ", tensor " << j;
    }
    EXPECT_EQ(replayed.calls, 3);
  }
  set_random_step(before.seed, before.step);
}

TEST_F(CudaStepGraph, AReplayIsOneCallOfTheDriver) {
  Training training(Dtype::float32);
  training.take_batch(0);
  StepGraph graph;
  const std::function<void()> body = [&] { training.step(); };
  for (int i = 0; i < 3; ++i) graph.run(body);
  const auto before = device_pool::statistics();
  const auto host_before = pool::statistics();
#if defined(DATTN_CUDA_EMULATED)
  const auto runtime_calls = emulation::runtime_calls();
#endif
  for (int i = 0; i < 4; ++i) graph.run(body);
#if defined(DATTN_CUDA_EMULATED)
  EXPECT_EQ(emulation::runtime_calls(), runtime_calls + 4);
#endif
  EXPECT_EQ(device_pool::statistics().system_requests, before.system_requests);
  EXPECT_EQ(device_pool::statistics().in_use, before.in_use);
  EXPECT_EQ(pool::statistics().system_requests, host_before.system_requests);
}

TEST_F(CudaStepGraph, TheRecordTakesTheMemoryOfTheFirstCalls) {
  Training training(Dtype::float32);
  training.take_batch(0);
  StepGraph graph;
  for (int i = 0; i < 2; ++i) graph.run([&] { training.step(); });
  const auto requests = device_pool::statistics().system_requests;
  graph.run([&] { training.step(); });
  EXPECT_EQ(device_pool::statistics().system_requests, requests);
}

// y = x * factor + x, by a tensor in between.
struct Sum {
  Tensor x = Tensor::full({1000}, 3).to(Device::cuda), y = Tensor::like(x);
  double factor = 2;

  void operator()() { add_forward(scale(x, factor), x, y); }
  double result() const { return y.to(Device::cpu).at(999); }
};

TEST_F(CudaStepGraph, NothingElseWritesToItsMemory) {
  Sum sum;
  StepGraph graph;
  for (int i = 0; i < 3; ++i) graph.run([&] { sum(); });
  std::vector<Tensor> others;
  for (int i = 0; i < 20; ++i) {
    others.push_back(Tensor::like(sum.x));
    others.back().fill(7);
  }
  sum.x.fill(5);
  graph.run([&] { sum(); });
  EXPECT_EQ(sum.result(), 15);
  for (const Tensor& other : others) EXPECT_EQ(other.to(Device::cpu).at(500), 7);
}

TEST_F(CudaStepGraph, EachReplayTakesTheNextRowOfATable) {
  const Tensor table = normal({6, 10}, 1), there = table.to(Device::cuda);
  Tensor index = Tensor::zeros({}, Dtype::int64, Device::cuda), row = Tensor::empty({10}, Dtype::float64, Device::cuda);
  StepGraph graph;
  for (int i = 0; i < 6; ++i) {
    graph.run([&] {
      take_row(there, index, row);
      advance(index);
    });
    EXPECT_TRUE(same_bits(row.to(Device::cpu), table.slice(i, i + 1).view({10}))) << i;
  }
}

TEST_F(CudaStepGraph, AChangedBodyIsSeenAfterReset) {
  Sum sum;
  StepGraph graph;
  int calls = 0;
  const auto run = [&] {
    graph.run([&] { ++calls, sum(); });
    return sum.result();
  };
  for (int i = 0; i < 4; ++i) EXPECT_EQ(run(), 9);
  sum.factor = 4;
  EXPECT_EQ(run(), 9);
  EXPECT_EQ(calls, 3);
  graph.reset();
  for (int i = 0; i < 4; ++i) EXPECT_EQ(run(), 15);
  EXPECT_EQ(calls, 5);
  graph.reset(), graph.reset();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(run(), 15);
  EXPECT_EQ(calls, 7);
}

// What run() says of a body that also does `f`; afterwards the graph records the sum alone.
std::string refusal(const std::function<void(Sum&)>& f) {
  Sum sum;
  StepGraph graph;
  const auto both = [&] { f(sum), sum(); };
  for (int i = 0; i < 2; ++i) graph.run(both);
  std::string text = error_text([&] { graph.run(both); });
  sum.y.fill(0);
  graph.run([&] { sum(); });
  EXPECT_EQ(sum.result(), 9);
  sum.x.fill(1);
  graph.run(both);
  EXPECT_EQ(sum.result(), 3);
  return text;
}

TEST_F(CudaStepGraph, RefusesWhatCannotBeReplayed) {
  EXPECT_EQ(
      refusal([](Sum& sum) { sum.x.to(Device::cpu); }),
      "cuda: a copy between host and device cannot be part of a recorded step: a replay would repeat the bytes of "
      "the recording");
  EXPECT_EQ(
      refusal([](Sum& sum) { sum.x.copy_from(Tensor::full({1000}, 3)); }),
      "cuda: a copy between host and device cannot be part of a recorded step: a replay would repeat the bytes of "
      "the recording");
  EXPECT_EQ(refusal([](Sum&) { synchronize(); }),
            "cuda: a wait for the device cannot be part of a recorded step: replays do not wait");
  EXPECT_EQ(refusal([](Sum& sum) { dropout(sum.x, DropoutMask(0.5, Random(1, Purpose::test))); }),
            "cuda: dropout by a step of the host cannot be part of a recorded step: a replay would draw the same mask "
            "again");
  EXPECT_EQ(refusal([](Sum& sum) { dropout(sum.x, DropoutMask()); }), "no error");
}

TEST_F(CudaStepGraph, ErrorsOfTheBodyPassThrough) {
  Sum sum;
  StepGraph graph;
  int calls = 0;
  const auto body = [&] {
    check(++calls != 1 && calls != 4, "call {}", calls);
    sum();
  };
  EXPECT_EQ(error_text([&] { graph.run(body); }), "call 1");
  for (int i = 0; i < 2; ++i) graph.run(body);
  EXPECT_EQ(error_text([&] { graph.run(body); }), "call 4");
  for (int i = 0; i < 2; ++i) graph.run(body);
  EXPECT_EQ(calls, 5);
  EXPECT_EQ(sum.result(), 9);
}

}  // namespace
}  // namespace dattn::cuda
