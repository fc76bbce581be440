// Convolutions by cuDNN (cuda/conv2d_cudnn.cu) where CMake found it; where not, cuda/conv2d_no_cudnn.cu has no plan for
// any shape, and the kernels of cuda/conv2d.cu do all the work.
#pragma once

#include <compare>
#include <cstdint>

namespace dattn::cuda::cudnn {

/// What is computed of x [N,H,W,C], w [O,Kh,Kw,C] and y [N,Ho,Wo,O]: y, or the gradient of x, or that of w; the other
/// two are given.
enum class Direction : unsigned char { forward, data, filter };

/// All three are bfloat16 (the library has no kernels for a float32 gradient of w) and lie at multiples of 16 bytes.
struct Convolution {
  Direction direction;
  std::int64_t N, H, W, C, O, Kh, Kw, Ho, Wo, stride, padding, dilation;

  auto operator<=>(const Convolution&) const = default;
};

/// Whether it is in the build.
bool available();
/// Whether convolutions ask it first: at the start they do; tests compare both ways.
bool enabled();
void set_enabled(bool enabled);

/// How to compute a convolution, chosen once for a shape among algorithms that give the same bits every time.
struct Plan;
/// Null where there is none.
const Plan* find_plan(const Convolution& convolution);
/// Writes the one that the plan's direction says.
void run(const Plan& plan, const void* x, const void* w, const void* y);

}  // namespace dattn::cuda::cudnn
