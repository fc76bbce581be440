// A network on the device: evaluated there, saved and loaded there, with the CPU's results and files.
#include "train/evaluate.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "core/autograd.h"
#include "cuda/enable.h"
#include "slots.h"
#include "small.h"
#include "tiny_classifier.h"
#include "train/checkpoint.h"

namespace dattn::test {
namespace {

constexpr std::int64_t kCount = 11, kClasses = 7;

class CudaEvaluate : public testing::Test {
 protected:
  void SetUp() override {
    cuda::enable();
    move_to(there_, Device::cuda);
  }

  TinyClassifier here_{kClasses}, there_{kClasses};
};

TEST_F(CudaEvaluate, GivesTheCpusNumbers) {
  const ImageSet set = tiny_images(kCount, kClasses);
  ImageSet resident = set;
  resident.images = set.images.to(Device::cuda);
  for (const Dtype precision : {Dtype::float32, Dtype::bfloat16}) {
    const EvaluateOptions options{.tta = true, .precision = precision, .batch_size = 4};
    const Evaluation expected = *evaluate(here_, set, kTinyNormalisation, options);
    for (const ImageSet& images : {set, resident}) {
      const Evaluation e = *evaluate(there_, images, kTinyNormalisation, options);
      EXPECT_NEAR(e.loss, expected.loss, (precision == Dtype::float32 ? 1e-5 : 1e-2) * expected.loss);
      EXPECT_EQ(e.images, kCount);
      EXPECT_EQ(e.accuracy, expected.accuracy);
      EXPECT_EQ(e.top5, expected.top5);
      EXPECT_EQ(e.accuracy_tta, expected.accuracy_tta);
      EXPECT_EQ(e.confusion, expected.confusion);
    }
  }
}

TEST_F(CudaEvaluate, AWholeNetworkGivesTheCpusLogits) {
  if (small()) GTEST_SKIP() << "long; what it runs is looked at by shorter tests too";
  const NoGrad no_grad;
  Random random(3, Purpose::init);
  const auto model = make_model({"dattn_cnn", "dattention", 10}, random);
  std::uint32_t lane = 5000;
  for (auto& [name, p] : parameters(*model)) {  // output projections start at zero
    if (name.find("proj_out") != std::string::npos) p.value().copy_from(normal(p.shape(), lane++, 0.1));
  }
  set_training(*model, false);
  const Tensor image = normal({1, 32, 32, 3}, 1).to(Dtype::float32);
  const Tensor expected = model->forward(image).to(Dtype::float64);
  move_to(*model, Device::cuda);
  expect_near(model->forward(image.to(Device::cuda)), expected, 1e-4, "logits");
}

TEST_F(CudaEvaluate, StopsBetweenBatches) {
  EvaluateOptions options{.batch_size = 4};
  int asked = 0;
  options.stop = [&] { return ++asked == 2; };
  EXPECT_FALSE(evaluate(there_, tiny_images(kCount, kClasses), kTinyNormalisation, options));
  EXPECT_EQ(asked, 2);
}

TEST_F(CudaEvaluate, TakesMoreImagesAtATimeThanTheCpu) {
  const ImageSet set = tiny_images(501, kClasses);
  const auto batches = [&](Classifier& model) {
    int asked = 0;
    EvaluateOptions options;
    options.stop = [&] { return ++asked < 0; };
    return std::pair(evaluate(model, set, kTinyNormalisation, options)->accuracy, asked);
  };
  const auto [expected, two] = batches(here_);
  EXPECT_EQ(two, 2);
  EXPECT_EQ(batches(there_), std::pair(expected, 1));
}

TEST_F(CudaEvaluate, CheckpointsAreTheCpusFilesAndLoadOnBoth) {
  const std::string folder = std::filesystem::temp_directory_path() / fmt::format("dattn-cuda-{}", getpid());
  std::filesystem::create_directories(folder);
  const std::vector<std::string> names{"a", "b", "c", "d", "e", "f", "g"};
  const auto nothing = nlohmann::json::object();
  const CheckpointInfo info{{"dattn_cnn", "none", kClasses}, names, kTinyNormalisation, "", nothing, nothing, false};
  const auto write = [&](const std::string& name, Classifier& model) {
    const auto tensors = state_dict(model);
    write_checkpoint(folder + name, info, tensors, {}, {{"state", tensors.front().tensor}});
    std::ifstream file(folder + name, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  EXPECT_EQ(write("/there", there_), write("/here", here_));
  for (const Device device : {Device::cpu, Device::cuda}) {
    TinyClassifier fresh(kClasses);
    move_to(fresh, device);
    for (auto& [name, tensor] : state_dict(fresh)) tensor.fill(3);
    Checkpoint(folder + "/there").load("model.", state_dict(fresh));
    const auto expected = state_dict(here_);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const Tensor loaded = state_dict(fresh)[i].tensor;
      EXPECT_EQ(loaded.device(), device);
      EXPECT_TRUE(same_bits(loaded.to(Device::cpu), expected[i].tensor)) << expected[i].name;
    }
  }
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace dattn::test
