// Augmentation of images that lie on the device as bytes: device twin of the kernel in datasets/augment.cpp, with its
// bits. A block makes one image, or a part of a large one; the table of values is in shared memory.
#include "datasets/augment.h"

#include <algorithm>

#include "cuda/fast_divide.cuh"
#include "cuda/kernels.h"

namespace dattn::cuda {

namespace {

constexpr int kChannels = 3, kLevels = 256;

// Images [count, height, width, 3]; an image has fewer than 2^31 bytes.
struct Images {
  const std::uint8_t* bytes;
  std::int64_t count;
  int height, width;
};

// Position i of a line of n pixels continued by reflection; |i| and i - n are below n.
__device__ __forceinline__ int reflect(int i, int n) { return i < 0 ? -i : i >= n ? 2 * (n - 1) - i : i; }

// What one part gives channel c of pixel (i, j).
__device__ __forceinline__ float part_value(const Images& images, const std::int32_t* part, float weight,
                                            Shared<const float> table, int cutout, int i, int j, int c) {
  using Plan = AugmentPlan;
  const std::int64_t image = part[Plan::image];
  if (image < 0 || image >= images.count) return NAN;
  const int down = i - part[Plan::cut_y], right = j - part[Plan::cut_x];
  if (down >= 0 && down < cutout && right >= 0 && right < cutout) return 0;
  const int y = reflect(i + part[Plan::shift_y], images.height), x = reflect(j + part[Plan::shift_x], images.width);
  const int column = part[Plan::mirrored] ? images.width - 1 - x : x;
  const std::int64_t pixel = (image * images.height + y) * images.width + column;
  const float value = table[kLevels * c + images.bytes[kChannels * pixel + c]];
  return __fmul_rn(weight, value);
}

template <typename S>
__global__ void augment_kernel(Images images, const std::int32_t* plan, const float* weights, int parts,
                               const float* table, int cutout, FastDivide by_width, S* y) {
  DATTN_SHARED(float, levels, kChannels* kLevels);
  for (int i = static_cast<int>(threadIdx.x); i < kChannels * kLevels; i += static_cast<int>(blockDim.x)) {
    levels[i] = table[i];
  }
  __syncthreads();
  const std::int64_t b = blockIdx.x;
  const int values = images.height * images.width * kChannels;
  plan += b * parts * AugmentPlan::kColumns;
  weights += b * parts;
  y += b * values;
  const unsigned step = gridDim.y * blockDim.x;  // below 2^24, so that the sum stays below 2^32
  for (unsigned next = blockIdx.y * blockDim.x + threadIdx.x; next < static_cast<unsigned>(values); next += step) {
    const int v = static_cast<int>(next), pixel = v / kChannels, c = v - pixel * kChannels, i = by_width(pixel),
              j = pixel - i * images.width;
    float sum = part_value(images, plan, weights[0], levels, cutout, i, j, c);
    for (int p = 1; p < parts; ++p) {
      const std::int32_t* part = plan + p * AugmentPlan::kColumns;
      sum = __fadd_rn(sum, part_value(images, part, weights[p], levels, cutout, i, j, c));
    }
    store(y + v, sum);
  }
}

}  // namespace

void augment_forward_cuda(const Tensor& images, const Tensor& parts, const Tensor& weights, const Tensor& table,
                          std::int64_t cutout, Tensor& y) {
  constexpr std::int64_t kValuesOfBlock = 12 * kThreads, kMostBlocks = 65535;  // of an image
  const std::int64_t values = images.size(1) * images.size(2) * kChannels;
  const std::int64_t blocks = std::clamp<std::int64_t>((values + kValuesOfBlock - 1) / kValuesOfBlock, 1, kMostBlocks);
  const Grid grid{dim3(static_cast<unsigned>(y.size(0)), static_cast<unsigned>(blocks)), kThreads};
  const Images from{images.data<std::uint8_t>(), images.size(0), static_cast<int>(images.size(1)),
                    static_cast<int>(images.size(2))};
  dispatch_storage("augment", y.dtype(), [&]<typename S>() {
    launch("augment_forward", augment_kernel<S>, grid, from, parts.data<std::int32_t>(), weights.data<float>(),
           parts.size(1), table.data<float>(), cutout, FastDivide(images.size(2)), y.data<S>());
  });
}

}  // namespace dattn::cuda
