// Whole runs on the device: a run goes on on the other device, and ends where the CPU's ends.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "core/state_file.h"
#include "cuda/memory.h"
#include "error_text.h"
#include "program.h"
#include "small.h"
#include "train/trainer.h"

#if defined(DATTN_CUDA_EMULATED)
#include "cuda_emulation/runtime.h"
#endif

namespace dattn::test {
namespace {

class CudaTrainer : public testing::Test {
 protected:
  CudaTrainer() { write_small_cifar(folder_ / "cifar", 2); }  // ten images to train on, one to test

  // Of five steps an epoch.
  TrainOptions options(const std::string& out, const std::string& device) {
    TrainOptions options;
    options.data = folder_ / "cifar";
    options.attention = "none";
    options.out = folder_ / out;
    options.device = device;
    options.batch_size = 2;
    options.epochs = 1;
    options.seed = 3;
    options.ema = true;
    return options;
  }

  // The state after `steps` steps.
  nlohmann::json train(const std::string& out, const std::string& device, std::int64_t steps, bool resume = false) {
    TrainOptions options = this->options(out, device);
    options.max_steps = steps;
    options.resume = resume;
    EXPECT_EQ(Trainer(options, {}).run(), 0);
    return nlohmann::json::parse(read_state_file(options.out + "/last.safetensors").metadata.at("state"));
  }

  TemporaryFolder folder_;
};

TEST_F(CudaTrainer, GoesOnOnTheOtherDevice) {
  if (small()) GTEST_SKIP() << "long; its steps are looked at by shorter tests too";
  const auto expected = train("here", "cpu", 4);
  train("there", "cuda", 2);
  train("there", "cpu", 3, true);
  const auto state = train("there", "cuda", 4, true);
  EXPECT_EQ(state.at("step"), 4);
  for (const char* key : {"train_loss", "test_loss"}) {
    const double loss = expected.at("rows").back().at(key);
    EXPECT_NEAR(state.at("rows").back().at(key).get<double>(), loss, 0.05 * loss) << key;
  }
}

#if defined(DATTN_CUDA_EMULATED)
TEST_F(CudaTrainer, SuggestsABatchSizeWhereMemoryIsTooSmall) {
  const emulation::Machine before = emulation::machine;
  Trainer trainer(options("full", "cuda"), {});
  cuda::device_pool::trim();
  std::size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  emulation::machine.memory = total - free + (1 << 20);  // less than a step needs
  const std::string text = error_text([&] { trainer.run(); });
  emulation::machine = before;
  EXPECT_TRUE(
      std::regex_match(text, std::regex("cuda: out of memory: \\S+ MiB more are needed, \\S+ MiB of \\S+ MiB are "
                                        "free, this process uses \\S+ MiB\nhint: try --batch-size 1 in place "
                                        "of 2")))
      << text;
}
#endif

}  // namespace
}  // namespace dattn::test
