// DAttention's sampling positions, p = r + s tanh(o) or clamp(r + o) (2), and their gradients (31): device twins of
// layers/dattention_positions_cpu.cpp.
#include <algorithm>

#include "cuda/common.cuh"
#include "cuda/kernels.h"
#include "layers/dattention_kernels.h"

namespace dattn::cuda {

namespace {

// Reference points (1) and offset ranges of the numbers of positions [N,Hk,Wk,G,2]. The reference point of place i is
// (2 i + 1) step - 1, or 0 where there is one alone.
struct References {
  int height, width, groups;
  bool limited;  // by tanh, else by a clamp
  float step[2], first[2], range[2];

  References(const Shape& shape, double factor)
      : height(static_cast<int>(shape[1])),
        width(static_cast<int>(shape[2])),
        groups(static_cast<int>(shape[3])),
        limited(factor >= 0) {
    for (const int axis : {0, 1}) {
      const std::int64_t n = shape[1 + axis], steps = std::max<std::int64_t>(n - 1, 1);
      step[axis] = n > 1 ? static_cast<float>(1.0 / static_cast<double>(steps)) : 0.0f;
      first[axis] = n > 1 ? -1.0f : 0.0f;
      range[axis] = static_cast<float>(factor / static_cast<double>(steps));
    }
  }

  __device__ float point(std::int64_t i) const {
    const int axis = static_cast<int>(i & 1);
    const std::int64_t sample = i / (2 * groups);
    const auto place = static_cast<int>(axis == 0 ? sample / width % height : sample % width);
    return fmaf(static_cast<float>(2 * place + 1), axis == 0 ? step[0] : step[1], axis == 0 ? first[0] : first[1]);
  }
  __device__ float range_of(std::int64_t i) const { return (i & 1) == 0 ? range[0] : range[1]; }
};

struct Positions {
  References references;
  const float* offsets;
  float* positions;
  __device__ void operator()(std::int64_t i) const {
    const float r = references.point(i), o = offsets[i];
    const float clamped = r + o < -1 ? -1.0f : r + o > 1 ? 1.0f : r + o;
    positions[i] = references.limited ? fmaf(references.range_of(i), tanhf(o), r) : clamped;
  }
};

struct Offsets {
  References references;
  const float *dpositions, *offsets;
  float* doffsets;
  __device__ void operator()(std::int64_t i) const {  // (31)
    const float o = offsets[i], gradient = dpositions[i];
    if (references.limited) {
      const float t = tanhf(o);
      doffsets[i] = gradient * references.range_of(i) * (1 - t * t);
    } else {
      doffsets[i] = fabsf(o + references.point(i)) <= 1 ? gradient : 0.0f;
    }
  }
};

}  // namespace

void dattention_positions_forward_cuda(const Tensor& offsets, double factor, Tensor& positions) {
  for_each_item("dattention_positions_forward", offsets.elements(),
                Positions{References(offsets.shape(), factor), offsets.data<float>(), positions.data<float>()});
}

void dattention_positions_backward_cuda(const Tensor& dpositions, const Tensor& offsets, double factor,
                                        Tensor& doffsets) {
  for_each_item("dattention_positions_backward", offsets.elements(),
                Offsets{References(offsets.shape(), factor), dpositions.data<float>(), offsets.data<float>(),
                        doffsets.data<float>()});
}

}  // namespace dattn::cuda
