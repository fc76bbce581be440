// Dropout: device twin of the kernel in layers/dropout.cpp.
#include "cuda/dropout.cuh"

#include "cuda/kernels.h"

namespace dattn::cuda {

namespace {

// Four neighbouring elements take their numbers from one block of Philox.
template <typename S>
struct DropFour {
  const S* x;
  DeviceDropoutMask mask;
  std::int64_t elements;
  S* y;
  __device__ void operator()(std::int64_t four) const {
    const RandomBlock block = mask.numbers().block(static_cast<std::uint64_t>(four));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const std::int64_t i = 4 * four + j;
      if (i < elements) store(y + i, load(x + i) * mask.factor_of(block.word[j]));
    }
  }
};

template <typename S>
struct DropRuns {
  const S* x;
  DeviceDropoutMask mask;
  std::int64_t run;
  S* y;
  __device__ void operator()(std::int64_t i) const { store(y + i, load(x + i) * mask.factor(i / run)); }
};

}  // namespace

void dropout_apply_cuda(const Tensor& x, const DropoutMask& mask, std::int64_t run, Tensor& y) {
  const DeviceDropoutMask drawn(mask);
  dispatch_storage("dropout", x.dtype(), [&]<typename S>() {
    if (run == 1) {
      for_each_item("dropout_apply", (x.elements() + 3) / 4,
                    DropFour<S>{x.data<S>(), drawn, x.elements(), y.data<S>()});
    } else {
      for_each_item("dropout_apply", x.elements(), DropRuns<S>{x.data<S>(), drawn, run, y.data<S>()});
    }
  });
}

}  // namespace dattn::cuda
