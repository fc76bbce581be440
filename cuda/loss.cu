// Cross entropy: a team of threads takes a row. Device twins of layers/loss_cpu.cpp, but that a class out of range
// gives NaN, as nothing is read back in a step.
#include "layers/loss.h"

#include "cuda/kernels.h"
#include "cuda/sums.cuh"

namespace dattn::cuda {

namespace {

// The targets t before smoothing: classes, or distributions.
struct Targets {
  const std::int64_t* classes = nullptr;
  const float* distributions = nullptr;

  explicit Targets(const Tensor& t) {
    if (t.dtype() == Dtype::int64) {
      classes = t.data<std::int64_t>();
    } else {
      distributions = t.data<float>();
    }
  }
};

template <typename Team, typename S>
__device__ float largest(const Team& team, const S* z, std::int64_t classes) {
  float most = -INFINITY;
  for (std::int64_t c = team.index(); c < classes; c += Team::kSize) most = fmaxf(most, load(z + c));
  return team.max(most);
}

// losses [rows] = sum_c q_c (log sum_k exp s_k - s_c) with s = z - max z: no large numbers cancel.
template <typename Team, typename S>
__global__ void row_loss_kernel(const S* logits, Targets targets, std::int64_t rows, std::int64_t classes,
                                float smoothing, float* losses) {
  const Team team;
  const std::int64_t row = row_within(team, rows);
  const S* z = logits + row * classes;
  const float most = largest(team, z, classes);
  float exponentials = 0, sum = 0, mass = 0, hit = 0;  // sums of exp s, s, t and t s
  for (std::int64_t c = team.index(); c < classes; c += Team::kSize) {
    const float s = load(z + c) - most;
    exponentials += expf(s);
    sum += s;
    if (targets.distributions == nullptr) continue;
    const float t = targets.distributions[row * classes + c];
    mass += t;
    hit = fmaf(t, s, hit);
  }
  const float log_sum = logf(team.sum(exponentials));
  sum = team.sum(sum), mass = team.sum(mass), hit = team.sum(hit);
  if (team.row() >= rows || team.index() != 0) return;
  if (targets.classes != nullptr) {
    const std::int64_t target = targets.classes[row];
    mass = 1;
    hit = target >= 0 && target < classes ? load(z + target) - most : NAN;
  }
  float loss = (1 - smoothing) * (mass * log_sum - hit);
  if (smoothing > 0) loss += smoothing * (log_sum - sum / static_cast<float>(classes));
  losses[row] = loss;
}

// One block adds the rows.
__global__ void total_loss_kernel(const float* losses, std::int64_t rows, float factor, float* loss) {
  float sum = 0;
  for (std::int64_t n = threadIdx.x; n < rows; n += blockDim.x) sum += losses[n];
  sum = BlockTeam().sum(sum);
  if (threadIdx.x == 0) *loss = sum * factor;
}

// dz_c = g (softmax(z)_c sum q - q_c)
template <typename Team, typename S>
__global__ void row_gradient_kernel(const float* dloss, const S* logits, Targets targets, std::int64_t rows,
                                    std::int64_t classes, float smoothing, float factor, S* dlogits) {
  const Team team;
  const std::int64_t row = row_within(team, rows);
  const S* z = logits + row * classes;
  const float most = largest(team, z, classes), g = *dloss * factor;
  float exponentials = 0, mass = 0;
  for (std::int64_t c = team.index(); c < classes; c += Team::kSize) {
    exponentials += expf(load(z + c) - most);
    if (targets.distributions != nullptr) mass += targets.distributions[row * classes + c];
  }
  exponentials = team.sum(exponentials), mass = team.sum(mass);
  if (team.row() >= rows) return;
  std::int64_t target = -1;
  if (targets.classes != nullptr) {
    target = targets.classes[row];
    mass = target >= 0 && target < classes ? 1.0f : NAN;
  }
  const float scale = g * ((1 - smoothing) * mass + smoothing) / exponentials;
  const float floor = g * smoothing / static_cast<float>(classes), weight = g * (1 - smoothing);
  for (std::int64_t c = team.index(); c < classes; c += Team::kSize) {
    const float t = targets.distributions != nullptr ? targets.distributions[row * classes + c]
                    : c == target                    ? 1.0f
                                                     : 0.0f;
    store(dlogits + row * classes + c, fmaf(expf(load(z + c) - most), scale, -floor) - weight * t);
  }
}

float row_factor(Reduction reduction, std::int64_t rows) {
  return reduction == Reduction::mean ? 1.0f / static_cast<float>(rows) : 1.0f;
}

}  // namespace

void cross_entropy_forward_cuda(const Tensor& logits, const Tensor& targets, double label_smoothing,
                                Reduction reduction, Tensor& loss) {
  const std::int64_t rows = logits.size(0), classes = logits.size(1);
  Scratch<float> losses(rows);
  dispatch_storage("cross_entropy", logits.dtype(), [&]<typename S>() {
    dispatch_team(rows, classes, [&]<typename Team>(const Grid& grid) {
      launch("cross_entropy_rows", row_loss_kernel<Team, S>, grid, logits.data<S>(), Targets(targets), rows, classes,
             static_cast<float>(label_smoothing), losses.data());
    });
  });
  launch("cross_entropy_forward", total_loss_kernel, {1, kThreads}, losses.data(), rows, row_factor(reduction, rows),
         loss.data<float>());
}

void cross_entropy_backward_cuda(const Tensor& dloss, const Tensor& logits, const Tensor& targets,
                                 double label_smoothing, Reduction reduction, Tensor& dlogits) {
  const std::int64_t rows = logits.size(0), classes = logits.size(1);
  dispatch_storage("cross_entropy", logits.dtype(), [&]<typename S>() {
    dispatch_team(rows, classes, [&]<typename Team>(const Grid& grid) {
      launch("cross_entropy_backward", row_gradient_kernel<Team, S>, grid, dloss.data<float>(), logits.data<S>(),
             Targets(targets), rows, classes, static_cast<float>(label_smoothing), row_factor(reduction, rows),
             dlogits.data<S>());
    });
  });
}

}  // namespace dattn::cuda
