// Saved: which inputs are kept, and how the others come back.
#include "core/saved.h"

#include <limits>

namespace dattn {

namespace {

// Longer chains would hold more than they save while they are recomputed.
constexpr int kMostSweeps = 4;

constexpr std::size_t kNever = std::numeric_limits<std::size_t>::max();
struct {
  std::size_t cpu = std::size_t{16} << 20, cuda = kNever;
} worth_above;

}  // namespace

Saved::Saved(const Tensor& x) : x_(x.detach()) {
  if (!x.slot() || !x.slot()->node || !worth_recomputing(x)) return;
  sweeps_ = x.slot()->node->recompute_sweeps();
  if (sweeps_ == 0 || sweeps_ > kMostSweeps) return;
  maker_ = x.slot();
  x_ = Tensor();
}

Tensor Saved::get() const {
  if (!maker_) return x_;
  check(maker_->node != nullptr,
        "backward: this graph has run already, and what it had saved is released\nhint: run forward again");
  if (!maker_->recomputed) maker_->recomputed = maker_->node->recompute();
  return maker_->recomputed;
}

bool worth_recomputing(const Tensor& x) {
  return x.bytes() > (x.device() == Device::cpu ? worth_above.cpu : worth_above.cuda);
}

RecomputeAbove::RecomputeAbove(std::size_t bytes) : cpu_(worth_above.cpu), cuda_(worth_above.cuda) {
  worth_above = {bytes, bytes};
}

RecomputeAbove::~RecomputeAbove() { worth_above = {cpu_, cuda_}; }

}  // namespace dattn
