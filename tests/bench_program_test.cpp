// The program `bench`: its cases, what it prints, and a device that is not there.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "cuda/enable.h"
#include "program.h"

namespace dattn::test {
namespace {

class BenchProgram : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(program_path("bench"))) GTEST_SKIP() << "bench is not part of this build";
  }
};

TEST_F(BenchProgram, PrintsAnObjectForACase) {
  const auto result = run_program("bench", "--case dattention_seed_latency --rounds 1 --json --precision bfloat16");
  ASSERT_EQ(result.status, 0) << result.output;
  const auto line = nlohmann::json::parse(result.output);
  EXPECT_EQ(line.at("case"), "dattention_seed_latency");
  EXPECT_EQ(line.at("device"), "cpu");
  EXPECT_EQ(line.at("precision"), "bfloat16");
  for (const char* key : {"forward_ms", "step_ms", "peak_mb", "floor_ms", "threads"}) EXPECT_GT(line.at(key), 0) << key;
  EXPECT_FALSE(line.contains("eager_step_ms"));  // a device's
}

TEST_F(BenchProgram, HasNoStepInInference) {
  const auto result = run_program("bench", "--case dattn_cnn_one_image --rounds 1 --json");
  ASSERT_EQ(result.status, 0) << result.output;
  const auto line = nlohmann::json::parse(result.output);
  EXPECT_GT(line.at("forward_ms"), 0);
  EXPECT_TRUE(line.at("step_ms").is_null());
}

TEST_F(BenchProgram, LeavesTheLongestCasesToADevice) {
  const auto all = run_program("bench", "--list");
  EXPECT_NE(all.output.find("dattn_cnn\n"), std::string::npos);
  EXPECT_EQ(all.output.find("dattn_cnn_2000\n"), std::string::npos);
  EXPECT_EQ(run_program("bench", "--list --case dattn_cnn_2000").output, "dattn_cnn_2000\n");
}

TEST_F(BenchProgram, ProfilesOnADeviceAlone) {
  const auto result = run_program("bench", "--profile --case dattention_seed_latency");
  EXPECT_EQ(result.status, 2);
  EXPECT_NE(result.output.find("--profile: belongs to --device cuda"), std::string::npos) << result.output;
}

TEST_F(BenchProgram, SaysWhyADeviceCannotBeUsed) {
  const auto why = cuda::why_unusable();
  if (!why) GTEST_SKIP() << "there is one";
  const auto result = run_program("bench", "--device cuda");
  EXPECT_EQ(result.status, 1);
  EXPECT_EQ(result.output, "bench: " + *why + "\n");
}

}  // namespace
}  // namespace dattn::test
