// What is said of machines whose device cannot be used, and of memory that is too small.
#include "cuda/context.h"

#include <gtest/gtest.h>

#include "core/tensor.h"
#include "cuda/enable.h"
#include "cuda/memory.h"
#include "error_text.h"
#include "train/device.h"

namespace dattn::cuda {
namespace {

class Machine : public testing::Test {
 protected:
  void SetUp() override {
    enable();
    device_pool::trim();
  }
  void TearDown() override { emulation::machine = before_; }
  std::string why() const { return why_unusable().value_or("usable"); }

 private:
  emulation::Machine before_ = emulation::machine;
};

TEST_F(Machine, OneWithADeviceIsUsable) {
  EXPECT_EQ(why(), "usable");
  EXPECT_EQ(device().name, "emulated device");
  EXPECT_TRUE(device().has_bfloat16_mma());
}

TEST_F(Machine, OneWithoutADriverSaysSo) {
  emulation::machine.driver = 0;
  EXPECT_EQ(why(), "cuda: no NVIDIA driver was found\nhint: use --device cpu");
}

TEST_F(Machine, ADriverTooOldIsNamedWithWhatIsNeeded) {
  emulation::machine.driver = 12040;
  EXPECT_EQ(why(),
            "cuda: the driver supports CUDA 12.4, this build needs 13.0\nhint: update the NVIDIA driver, or use "
            "--device cpu");
}

TEST_F(Machine, OneWithoutADeviceSaysSo) {
  emulation::machine.devices = 0;
  EXPECT_EQ(why(), "cuda: no NVIDIA GPU was found (cudaErrorNoDevice)\nhint: use --device cpu");
}

TEST_F(Machine, AutoTakesTheDeviceWhereOneIsUsable) {
  EXPECT_EQ(use_device("auto"), Device::cuda);
  EXPECT_EQ(use_device("cuda"), Device::cuda);
  emulation::machine.devices = 0;
  EXPECT_EQ(use_device("auto"), Device::cpu);
}

TEST_F(Machine, AnArchitectureThatWasNotBuiltIsNamed) {
  emulation::machine.major = 7;
  emulation::machine.minor = 5;
  for (const cudaError_t error :
       {cudaErrorNoKernelImageForDevice, cudaErrorInvalidDeviceFunction, cudaErrorUnsupportedPtxVersion}) {
    emulation::machine.loading = error;
    EXPECT_EQ(why(),
              "cuda: emulated device has compute capability 7.5, for which this build holds no code\n"
              "hint: configure with -DCMAKE_CUDA_ARCHITECTURES=75, or use --device cpu");
  }
}

TEST_F(Machine, ADeviceThatRefusesIsQuoted) {
  const auto quoted = [](const std::string& name) {
    return fmt::format(
        "cuda: the GPU cannot be used: {} ({})\nhint: see what nvidia-smi says of it, or use --device cpu", name, name);
  };
  emulation::machine.loading = cudaErrorDevicesUnavailable;
  EXPECT_EQ(why(), quoted("cudaErrorDevicesUnavailable"));
  emulation::machine.loading = cudaSuccess;
  emulation::machine.choice = cudaErrorDevicesUnavailable;  // another process has it for itself
  EXPECT_EQ(why(), quoted("cudaErrorDevicesUnavailable"));
  emulation::machine.counting = cudaErrorSystemNotReady;  // its fabric manager does not run
  EXPECT_EQ(why(), quoted("cudaErrorSystemNotReady"));
  EXPECT_EQ(use_device("auto"), Device::cpu);
}

TEST_F(Machine, MemoryThatIsTooSmallIsNamedWithWhatIsFree) {
  emulation::machine.memory = std::size_t{100} << 20;
  const Tensor some = Tensor::empty({10 << 20}, Dtype::float32, Device::cuda);
  const std::string text = test::error_text([] { Tensor::empty({20 << 20}, Dtype::float32, Device::cuda); });
  EXPECT_EQ(text.substr(0, text.find(", this process")),
            "cuda: out of memory: 80.0 MiB more are needed, 60.0 MiB of 100.0 MiB are free");
}

}  // namespace
}  // namespace dattn::cuda
