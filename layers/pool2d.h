// Pooling of images [N,H,W,C] over square windows: the window of output (i, j) covers rows i stride - padding + 0 ..
// kernel - 1.
//   max:     y = largest x of the window; dx gets dy at the place of the maximum, 0 elsewhere.
//   average: y = sum of x over the window / kernel^2 (padding counts as zeros);  dx = sum of dy / kernel^2 over the
//   windows that cover x.
#pragma once

#include <optional>

#include "core/autograd.h"
#include "core/kernel.h"
#include "layers/module.h"

namespace dattn {

/// y [N,Ho,Wo,C] with Ho = (H + 2 padding - kernel) / stride + 1, rounded down; the stride is the kernel where left
/// out. As in PyTorch, padding is never the maximum, the first of equal values in scan order is the maximum, and a NaN
/// is larger than all. Backward keeps one byte for each output (four where kernel > 16), not x. Errors: a kernel larger
/// than the padded image; padding of more than half the kernel.
Tensor max_pool2d(const Tensor& x, std::int64_t kernel, std::optional<std::int64_t> stride = {},
                  std::int64_t padding = 0);

/// The same sizes and errors; padding counts as zeros (PyTorch's count_include_pad=true).
Tensor avg_pool2d(const Tensor& x, std::int64_t kernel, std::optional<std::int64_t> stride = {},
                  std::int64_t padding = 0);

/// y [N,C]: the mean over all pixels.
Tensor global_avg_pool(const Tensor& x);

struct MaxPool2d {
  std::int64_t kernel;
  std::optional<std::int64_t> stride = {};
  std::int64_t padding = 0;
  Tensor operator()(const Tensor& x) const { return max_pool2d(x, kernel, stride, padding); }
  void visit(Visitor&) {}
};

struct AvgPool2d {
  std::int64_t kernel;
  std::optional<std::int64_t> stride = {};
  std::int64_t padding = 0;
  Tensor operator()(const Tensor& x) const { return avg_pool2d(x, kernel, stride, padding); }
  void visit(Visitor&) {}
};

struct GlobalAvgPool {
  Tensor operator()(const Tensor& x) const { return global_avg_pool(x); }
  void visit(Visitor&) {}
};

/// A window and its steps.
struct PoolWindow {
  std::int64_t kernel, stride, padding;
};

/// `taps`, uint8 or int32 like y: the place of the maximum in its window, row by row; left out where undefined.
extern Kernel<void(const Tensor& x, PoolWindow window, Tensor& y, Tensor& taps)> max_pool2d_forward;
extern Kernel<void(const Tensor& dy, const Tensor& taps, PoolWindow window, Tensor& dx)> max_pool2d_backward;
extern Kernel<void(const Tensor& x, PoolWindow window, Tensor& y)> avg_pool2d_forward;
extern Kernel<void(const Tensor& dy, PoolWindow window, Tensor& dx)> avg_pool2d_backward;
extern Kernel<void(const Tensor& x, Tensor& y)> global_avg_pool_forward;
extern Kernel<void(const Tensor& dy, Tensor& dx)> global_avg_pool_backward;

}  // namespace dattn
