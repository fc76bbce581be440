// Every kernel slot that has a CUDA side: one line an operation.
#include "cuda/enable.h"

#include "core/elements.h"
#include "core/rows.h"
#include "cuda/context.h"
#include "cuda/kernels.h"
#include "cuda/memory.h"
#include "datasets/augment.h"
#include "layers/batchnorm_gelu.h"
#include "layers/conv2d_max_pool.h"
#include "layers/groupnorm.h"
#include "layers/layernorm.h"
#include "layers/linear.h"
#include "layers/totals.h"
#include "optim/adam.h"
#include "optim/ema.h"
#include "optim/gradient_norm.h"
#include "optim/muon.h"
#include "optim/sgd.h"

namespace dattn::cuda {

void enable() {
  open_device();
  enable_memory();

  fill_elements.set_cuda(fill_elements_cuda);
  convert_elements.set_cuda(convert_elements_cuda);
  take_row.set_cuda(take_row_cuda);
  advance.set_cuda(advance_cuda);

  add_forward.set_cuda(add_forward_cuda);
  mul_forward.set_cuda(mul_forward_cuda);
  scale_forward.set_cuda(scale_forward_cuda);
  sum_forward.set_cuda(sum_forward_cuda);
  sum_backward.set_cuda(sum_backward_cuda);
  permute_forward.set_cuda(permute_forward_cuda);
  copy_box.set_cuda(copy_box_cuda);
  matmul_forward.set_cuda(matmul_forward_cuda);

  activation_forward.set_cuda(activation_forward_cuda);
  activation_backward.set_cuda(activation_backward_cuda);
  softmax_forward.set_cuda(softmax_forward_cuda);
  softmax_backward.set_cuda(softmax_backward_cuda);
  dropout_apply.set_cuda(dropout_apply_cuda);

  linear_forward.set_cuda(linear_forward_cuda);
  linear_backward_data.set_cuda(linear_backward_data_cuda);
  linear_backward_weight.set_cuda(linear_backward_weight_cuda);
  bias_backward.set_cuda(bias_backward_cuda);

  conv2d_forward.set_cuda(conv2d_forward_cuda);
  conv2d_backward_data.set_cuda(conv2d_backward_data_cuda);
  conv2d_backward_filter.set_cuda(conv2d_backward_filter_cuda);
  conv2d_max_pool2_forward.set_cuda(conv2d_max_pool2_forward_cuda);
  conv2d_max_pool2_backward.set_cuda(conv2d_max_pool2_backward_cuda);

  batchnorm_statistics.set_cuda(batchnorm_statistics_cuda);
  batchnorm_update.set_cuda(batchnorm_update_cuda);
  batchnorm_forward.set_cuda(batchnorm_forward_cuda);
  batchnorm_backward_sums.set_cuda(batchnorm_backward_sums_cuda);
  batchnorm_backward.set_cuda(batchnorm_backward_cuda);
  batchnorm_backward_fixed.set_cuda(batchnorm_backward_fixed_cuda);
  batchnorm_gelu_forward.set_cuda(batchnorm_gelu_forward_cuda);
  batchnorm_gelu_backward_sums.set_cuda(batchnorm_gelu_backward_sums_cuda);
  batchnorm_gelu_backward.set_cuda(batchnorm_gelu_backward_cuda);

  layernorm_forward.set_cuda(layernorm_forward_cuda);
  layernorm_backward.set_cuda(layernorm_backward_cuda);

  groupnorm_forward.set_cuda(groupnorm_forward_cuda);
  groupnorm_backward.set_cuda(groupnorm_backward_cuda);

  max_pool2d_forward.set_cuda(max_pool2d_forward_cuda);
  max_pool2d_backward.set_cuda(max_pool2d_backward_cuda);
  avg_pool2d_forward.set_cuda(avg_pool2d_forward_cuda);
  avg_pool2d_backward.set_cuda(avg_pool2d_backward_cuda);
  global_avg_pool_forward.set_cuda(global_avg_pool_forward_cuda);
  global_avg_pool_backward.set_cuda(global_avg_pool_backward_cuda);

  cross_entropy_forward.set_cuda(cross_entropy_forward_cuda);
  cross_entropy_backward.set_cuda(cross_entropy_backward_cuda);
  add_to_totals.set_cuda(add_to_totals_cuda);

  grid_sample_forward.set_cuda(grid_sample_forward_cuda);
  grid_sample_backward_x.set_cuda(grid_sample_backward_x_cuda);
  grid_sample_backward_points.set_cuda(grid_sample_backward_points_cuda);
  depthwise_conv2d_forward.set_cuda(depthwise_conv2d_forward_cuda);
  depthwise_conv2d_backward_data.set_cuda(depthwise_conv2d_backward_data_cuda);
  depthwise_conv2d_backward_filter.set_cuda(depthwise_conv2d_backward_filter_cuda);
  dattention_positions_forward.set_cuda(dattention_positions_forward_cuda);
  dattention_positions_backward.set_cuda(dattention_positions_backward_cuda);
  dattention_attend_forward.set_cuda(dattention_attend_forward_cuda);
  dattention_attend_backward.set_cuda(dattention_attend_backward_cuda);

  sgd_update.set_cuda(sgd_update_cuda);
  adam_update.set_cuda(adam_update_cuda);
  muon_momentum.set_cuda(muon_momentum_cuda);
  muon_update.set_cuda(muon_update_cuda);
  ema_update.set_cuda(ema_update_cuda);
  swap_elements.set_cuda(swap_elements_cuda);
  sum_of_squares.set_cuda(sum_of_squares_cuda);

  augment_forward.set_cuda(augment_forward_cuda);
}

std::string device_name() { return device().name; }

}  // namespace dattn::cuda
