// The device's functions for the kernel slots, by subject. cuda/enable.cu puts each into its slot; what a function
// computes is said where the slot is declared.
#pragma once

#include "core/ops.h"
#include "core/tensor.h"
#include "layers/activation.h"
#include "layers/conv2d.h"
#include "layers/dattention_kernels.h"
#include "layers/dropout.h"
#include "layers/grid_sample.h"
#include "layers/loss.h"
#include "layers/pool2d.h"

namespace dattn {
struct AdamOptions;
struct EmaPair;
struct MuonOptions;
struct SgdOptions;
}  // namespace dattn

namespace dattn::cuda {

// --- elements.cu: core/elements.h ---
void fill_elements_cuda(Tensor& x, double value);
void convert_elements_cuda(const Tensor& from, Tensor& to);

// --- rows.cu: core/rows.h ---
void take_row_cuda(const Tensor& table, const Tensor& index, Tensor& y);
void advance_cuda(Tensor& index);

// --- ops.cu, ops_layout.cu, ops_matmul.cu: core/ops.h ---
void add_forward_cuda(const Tensor& a, const Tensor& b, Tensor& y);
void mul_forward_cuda(const Tensor& a, const Tensor& b, Tensor& y);
void scale_forward_cuda(const Tensor& x, double factor, Tensor& y);
void sum_forward_cuda(const Tensor& x, int dim, double factor, Tensor& y);
void sum_backward_cuda(const Tensor& dy, int dim, double factor, Tensor& dx);
void permute_forward_cuda(const Tensor& x, const Shape& order, Tensor& y);
void copy_box_cuda(const Tensor& x, const Shape& x_begin, Tensor& y, const Shape& y_begin, const Shape& size);
void matmul_forward_cuda(const Tensor& a, Trans transpose_a, const Tensor& b, Trans transpose_b, Tensor& y);

// --- activation.cu: layers/activation.h ---
void activation_forward_cuda(Activation kind, const Tensor& x, Tensor& y);
void activation_backward_cuda(Activation kind, const Tensor& dy, const Tensor& saved, Tensor& dx);
void softmax_forward_cuda(const Tensor& x, Tensor& y);
void softmax_backward_cuda(const Tensor& dy, const Tensor& y, Tensor& dx);

// --- dropout.cu: layers/dropout.h ---
void dropout_apply_cuda(const Tensor& x, const DropoutMask& mask, std::int64_t run, Tensor& y);

// --- linear.cu: layers/linear.h ---
void linear_forward_cuda(const Tensor& x, const Tensor& w, const Tensor& b, Tensor& y);
void linear_backward_data_cuda(const Tensor& dy, const Tensor& w, Tensor& dx);
void linear_backward_weight_cuda(const Tensor& dy, const Tensor& x, Tensor& dw);
void bias_backward_cuda(const Tensor& dy, Tensor& db);

// --- conv2d.cu: layers/conv2d.h, layers/conv2d_max_pool.h ---
void conv2d_forward_cuda(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& options, Tensor& y);
void conv2d_backward_data_cuda(const Tensor& dy, const Tensor& w, const Conv2dOptions& options, Tensor& dx);
void conv2d_backward_filter_cuda(const Tensor& dy, const Tensor& x, const Conv2dOptions& options, Tensor& dw);
void conv2d_max_pool2_forward_cuda(const Tensor& x, const Tensor& w, const Tensor& b, const Conv2dOptions& options,
                                   Tensor& y, Tensor& taps);
void conv2d_max_pool2_backward_cuda(const Tensor& dy, const Tensor& taps, const Tensor& x, const Tensor& w,
                                    const Conv2dOptions& options, Tensor& dx, Tensor& dw);

// --- batchnorm.cu: layers/batchnorm.h ---
void batchnorm_statistics_cuda(const Tensor& x, Tensor& mean, Tensor& var);
void batchnorm_update_cuda(const Tensor& mean, const Tensor& var, std::int64_t rows, double momentum,
                           Tensor& running_mean, Tensor& running_var, Tensor& num_batches_tracked);
void batchnorm_forward_cuda(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w, const Tensor& b,
                            double eps, Tensor& y);
void batchnorm_backward_sums_cuda(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var, double eps,
                                  Tensor& sum_dy, Tensor& sum_dy_xhat);
void batchnorm_backward_cuda(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w,
                             double eps, const Tensor& sum_dy, const Tensor& sum_dy_xhat, Tensor& dx);
void batchnorm_backward_fixed_cuda(const Tensor& dy, const Tensor& var, const Tensor& w, double eps, Tensor& dx);

// --- batchnorm_gelu.cu: layers/batchnorm_gelu.h ---
void batchnorm_gelu_forward_cuda(const Tensor& x, const Tensor& mean, const Tensor& var, const Tensor& w,
                                 const Tensor& b, double eps, Tensor& y);
void batchnorm_gelu_backward_sums_cuda(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var,
                                       const Tensor& w, const Tensor& b, double eps, Tensor& sum_dz,
                                       Tensor& sum_dz_xhat);
void batchnorm_gelu_backward_cuda(const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& var,
                                  const Tensor& w, const Tensor& b, double eps, const Tensor& sum_dz,
                                  const Tensor& sum_dz_xhat, Tensor& dx);

// --- layernorm.cu: layers/layernorm.h ---
void layernorm_forward_cuda(const Tensor& x, const Tensor& w, const Tensor& b, double eps, Tensor& y);
void layernorm_backward_cuda(const Tensor& dy, const Tensor& x, const Tensor& w, double eps, Tensor& dx, Tensor& dw,
                             Tensor& db);

// --- groupnorm.cu: layers/groupnorm.h ---
void groupnorm_forward_cuda(const Tensor& x, const Tensor& w, const Tensor& b, double eps, Tensor& y, Tensor& mean,
                            Tensor& s);
void groupnorm_backward_cuda(const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& mean, const Tensor& s,
                             Tensor& dx, Tensor& dw, Tensor& db);

// --- pool2d.cu: layers/pool2d.h ---
void max_pool2d_forward_cuda(const Tensor& x, PoolWindow window, Tensor& y, Tensor& taps);
void max_pool2d_backward_cuda(const Tensor& dy, const Tensor& taps, PoolWindow window, Tensor& dx);
void avg_pool2d_forward_cuda(const Tensor& x, PoolWindow window, Tensor& y);
void avg_pool2d_backward_cuda(const Tensor& dy, PoolWindow window, Tensor& dx);
void global_avg_pool_forward_cuda(const Tensor& x, Tensor& y);
void global_avg_pool_backward_cuda(const Tensor& dy, Tensor& dx);

// --- loss.cu: layers/loss.h ---
void cross_entropy_forward_cuda(const Tensor& logits, const Tensor& targets, double label_smoothing,
                                Reduction reduction, Tensor& loss);
void cross_entropy_backward_cuda(const Tensor& dloss, const Tensor& logits, const Tensor& targets,
                                 double label_smoothing, Reduction reduction, Tensor& dlogits);

// --- totals.cu: layers/totals.h ---
void add_to_totals_cuda(const Tensor& logits, const Tensor& labels, const Tensor& loss, double loss_factor,
                        const Tensor& step, Tensor& totals);

// --- grid_sample.cu: layers/grid_sample.h ---
void grid_sample_forward_cuda(const Tensor& x, const Tensor& points, const GridSampleOptions& options, Tensor& y);
void grid_sample_backward_x_cuda(const Tensor& dy, const Tensor& points, const GridSampleOptions& options, Tensor& dx);
void grid_sample_backward_points_cuda(const Tensor& dy, const Tensor& x, const Tensor& points,
                                      const GridSampleOptions& options, Tensor& dpoints);

// --- depthwise_conv2d.cu: layers/conv2d.h ---
void depthwise_conv2d_forward_cuda(const Tensor& x, const Tensor& w, const Tensor& b, const Tensor& addend,
                                   const Conv2dOptions& options, Tensor& y);
void depthwise_conv2d_backward_data_cuda(const Tensor& dy, const Tensor& w, const Conv2dOptions& options, Tensor& dx);
void depthwise_conv2d_backward_filter_cuda(const Tensor& dy, const Tensor& x, const Conv2dOptions& options, Tensor& dw);

// --- dattention_positions.cu: layers/dattention_kernels.h ---
void dattention_positions_forward_cuda(const Tensor& offsets, double factor, Tensor& positions);
void dattention_positions_backward_cuda(const Tensor& dpositions, const Tensor& offsets, double factor,
                                        Tensor& doffsets);

// --- dattention_forward.cu, dattention_backward.cu: layers/dattention_kernels.h ---
void dattention_attend_forward_cuda(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& positions,
                                    const DAttentionBias& bias, const DropoutMask& mask, Tensor& mix, Tensor& lse);
void dattention_attend_backward_cuda(const Tensor& dmix, const Tensor& q, const Tensor& k, const Tensor& v,
                                     const Tensor& positions, const DAttentionBias& bias, const DropoutMask& mask,
                                     const Tensor& mix, const Tensor& lse, Tensor& dq, Tensor& dk, Tensor& dv,
                                     Tensor& dpositions);

// --- sgd.cu, adam.cu, muon.cu, ema.cu, gradient_norm.cu: optim ---
void sgd_update_cuda(Tensor& w, const Tensor& grad, Tensor& m, const Tensor& numbers, const SgdOptions& options);
void adam_update_cuda(Tensor& w, const Tensor& grad, Tensor& m, Tensor& v, const Tensor& numbers,
                      const AdamOptions& options);
void muon_momentum_cuda(const Tensor& grad, Tensor& m, Tensor& u, const Tensor& numbers, const MuonOptions& options);
void muon_update_cuda(Tensor& u, Tensor& w, const Tensor& numbers, const MuonOptions& options);
void ema_update_cuda(const Tensor& numbers, std::vector<EmaPair>& pairs);
void swap_elements_cuda(Tensor& a, Tensor& b);
void sum_of_squares_cuda(const Tensor& x, Tensor& sum);

// --- augment.cu: datasets/augment.h ---
void augment_forward_cuda(const Tensor& images, const Tensor& parts, const Tensor& weights, const Tensor& table,
                          std::int64_t cutout, Tensor& y);

}  // namespace dattn::cuda
