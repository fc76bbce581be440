// Whole runs on the device: a run goes on on the other device, and ends where the CPU's ends.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/state_file.h"
#include "program.h"
#include "small.h"
#include "train/trainer.h"

namespace dattn::test {
namespace {

class CudaTrainer : public testing::Test {
 protected:
  CudaTrainer() { write_small_cifar(folder_ / "cifar", 2); }  // ten images to train on, one to test

  // The state after `steps` steps, of five in an epoch.
  nlohmann::json train(const std::string& out, const std::string& device, std::int64_t steps, bool resume = false) {
    TrainOptions options;
    options.data = folder_ / "cifar";
    options.attention = "none";
    options.out = folder_ / out;
    options.device = device;
    options.batch_size = 2;
    options.epochs = 1;
    options.seed = 3;
    options.ema = true;
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

}  // namespace
}  // namespace dattn::test
