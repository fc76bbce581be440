// The device: choice, checks, properties, stream.
#include "cuda/common.cuh"
#include "cuda/recording.h"

namespace dattn::cuda {

namespace {

__global__ void probe_kernel() {}

struct Context {
  DeviceProperties properties;
  cudaStream_t stream = nullptr;
  bool open = false;
};

Context& context() {
  static auto* c = new Context;  // never destroyed: tensors with static lifetime free their memory later
  return *c;
}

// What loading a kernel says where the build has no code that the device and its driver can run.
bool is_lack_of_code(cudaError_t status) {
  return status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction ||
         status == cudaErrorUnsupportedPtxVersion;
}

std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

// `code`: what the driver has chosen of this build, from which it may have compiled for a newer device.
DeviceProperties read_properties(int code) {
  cudaDeviceProp p{};
  check_cuda(cudaGetDeviceProperties(&p, 0), "properties of the device");
  return {p.name, p.major, p.minor, code, p.sharedMemPerBlockOptin};
}

}  // namespace

std::optional<std::string> why_unusable() {
  int count = 0, driver = 0, runtime = 0;
  const cudaError_t counted = cudaGetDeviceCount(&count);
  cudaGetLastError();  // what failed here is said below, not by a later call
  check_cuda(cudaDriverGetVersion(&driver), "version of the driver");
  check_cuda(cudaRuntimeGetVersion(&runtime), "version of the runtime");
  if (driver == 0) return "cuda: no NVIDIA driver was found\nhint: use --device cpu";
  if (counted == cudaErrorInsufficientDriver) {
    return fmt::format(
        "cuda: the driver supports CUDA {}, this build needs {}\nhint: update the NVIDIA driver, or use --device cpu",
        version_text(driver), version_text(runtime));
  }
  if (counted == cudaErrorNoDevice || (counted == cudaSuccess && count == 0)) {
    return fmt::format("cuda: no NVIDIA GPU was found ({})\nhint: use --device cpu", cudaGetErrorString(counted));
  }
  cudaFuncAttributes attributes{};
  cudaError_t loaded = counted;
  if (loaded == cudaSuccess) loaded = cudaSetDevice(0);  // or the runtime passes over one that is taken
  if (loaded == cudaSuccess) loaded = cudaFuncGetAttributes(&attributes, probe_kernel);
  cudaGetLastError();
  if (is_lack_of_code(loaded)) {
    const DeviceProperties p = read_properties(0);
    return fmt::format(
        "cuda: {} has compute capability {}.{}, for which this build holds no code\nhint: configure with "
        "-DCMAKE_CUDA_ARCHITECTURES={}{}, or use --device cpu",
        p.name, p.major, p.minor, p.major, p.minor);
  }
  if (loaded != cudaSuccess) {
    return fmt::format(
        "cuda: the GPU cannot be used: {} ({})\nhint: see what nvidia-smi says of it, or use --device cpu",
        cudaGetErrorString(loaded), cudaGetErrorName(loaded));
  }
  return std::nullopt;
}

void open_device() {
  Context& c = context();
  if (c.open) return;
  if (const auto why = why_unusable()) fail("{}", *why);
  cudaFuncAttributes probe{};
  check_cuda(cudaFuncGetAttributes(&probe, probe_kernel), "properties of the kernels");
  c.properties = read_properties(probe.ptxVersion);
  check_cuda(cudaStreamCreateWithFlags(&c.stream, cudaStreamNonBlocking), "making of the stream");
  c.open = true;
}

const DeviceProperties& device() { return context().properties; }
cudaStream_t stream() { return context().stream; }

void synchronize() {
  refuse_in_recording("a wait for the device", "replays do not wait");
  check_cuda(cudaStreamSynchronize(stream()), "wait for the device");
}

bool is_recording() {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(cudaStreamIsCapturing(stream(), &status), "state of the stream");
  return status != cudaStreamCaptureStatusNone;
}

void refuse_in_recording(const char* what, const char* why) {
  if (is_recording()) fail("cuda: {} cannot be part of a recorded step: {}", what, why);
}

}  // namespace dattn::cuda
