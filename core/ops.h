// Basic operations on tensors, each with its gradient: sums and products, matrix products, and changes of layout.
// Floating operations take float32, float64 and bfloat16; those that only move elements take every type. Shapes or
// types that do not go together, and dimensions that are not there, are an Error which names them.
#pragma once

#include <initializer_list>
#include <span>

#include "core/autograd.h"
#include "core/gemm.h"
#include "core/kernel.h"

namespace dattn {

// --- element by element ---

/// y = a + b, same shapes. dL/da = dL/db = dL/dy.
Tensor add(const Tensor& a, const Tensor& b);
extern Kernel<void(const Tensor& a, const Tensor& b, Tensor& y)> add_forward;

/// y = a b element by element, same shapes. dL/da = b dL/dy, dL/db = a dL/dy.
Tensor mul(const Tensor& a, const Tensor& b);
extern Kernel<void(const Tensor& a, const Tensor& b, Tensor& y)> mul_forward;

/// y = factor x. dL/dx = factor dL/dy.
Tensor scale(const Tensor& x, double factor);
/// y may be x.
extern Kernel<void(const Tensor& x, double factor, Tensor& y)> scale_forward;

// --- type ---

/// The same numbers in another floating type, rounded where it is narrower; dL/dx is dL/dy in x's type. The same tensor
/// where it has the type already.
Tensor cast(const Tensor& x, Dtype dtype);

// --- matrix products ---

/// y [..., m, n] = op(a) op(b): op(a) is [..., m, k], op(b) [..., k, n], and op transposes the last two dimensions
/// where asked to. The leading dimensions are the same in both: one product for each of their elements.
Tensor matmul(const Tensor& a, const Tensor& b, Trans transpose_a = Trans::no, Trans transpose_b = Trans::no);
extern Kernel<void(const Tensor& a, Trans transpose_a, const Tensor& b, Trans transpose_b, Tensor& y)> matmul_forward;

// --- sums ---

/// Sum of all elements, of shape []; or over dimension `dim` (negative: from the end), which is then gone from the
/// shape.
Tensor sum(const Tensor& x);
Tensor sum(const Tensor& x, int dim);
/// The same divided by the number of elements summed.
Tensor mean(const Tensor& x);
Tensor mean(const Tensor& x, int dim);
/// y = factor * (sum of x over dim), and its gradient dx = factor * dy along dim.
extern Kernel<void(const Tensor& x, int dim, double factor, Tensor& y)> sum_forward;
extern Kernel<void(const Tensor& dy, int dim, double factor, Tensor& dx)> sum_backward;

// --- layout ---

/// The same elements, in the same order, under another shape; in the list one size may be -1 and follows from the
/// others.
Tensor reshape(const Tensor& x, const Shape& shape);
Tensor reshape(const Tensor& x, std::initializer_list<std::int64_t> sizes);

/// A copy with its dimensions in another order: dimension i of y is dimension order[i] of x. permute(x, {1, 0})
/// transposes.
Tensor permute(const Tensor& x, const Shape& order);
extern Kernel<void(const Tensor& x, const Shape& order, Tensor& y)> permute_forward;

/// Images [N,C,H,W] of other programs to [N,H,W,C] of this one, and back.
Tensor from_nchw(const Tensor& x);
Tensor to_nchw(const Tensor& x);

/// The tensors one after the other along dimension `dim` (negative: from the end); their other sizes are the same.
Tensor concat(std::span<const Tensor> xs, int dim);
Tensor concat(std::initializer_list<Tensor> xs, int dim);

/// Zeros around x: before[i] of them ahead of dimension i and after[i] behind it.
Tensor pad(const Tensor& x, const Shape& before, const Shape& after);
/// Images [N,H,W,C] with `border` zero pixels on each of the four sides.
Tensor pad2d(const Tensor& x, std::int64_t border);

/// Copies the box of `size` elements that starts at x_begin in x to where it starts at y_begin in y.
extern Kernel<void(const Tensor& x, const Shape& x_begin, Tensor& y, const Shape& y_begin, const Shape& size)> copy_box;

}  // namespace dattn
