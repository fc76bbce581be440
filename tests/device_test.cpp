// The choice of the device in this build, on this machine. Emulated machines are in cuda_emulation/context_test.cpp.
#include "train/device.h"

#include <gtest/gtest.h>

#include "cuda/enable.h"
#include "error_text.h"

namespace dattn {
namespace {

TEST(UseDevice, FollowsTheName) {
  const auto why = cuda::why_unusable();
  EXPECT_EQ(use_device("cpu"), Device::cpu);
  EXPECT_EQ(use_device("auto"), why ? Device::cpu : Device::cuda);
  EXPECT_EQ(test::error_text([] { use_device("cuda"); }), why.value_or("no error"));
  EXPECT_EQ(test::error_text([] { use_device("gpu"); }), "device: expected cpu, cuda or auto, got gpu");
}

}  // namespace
}  // namespace dattn
