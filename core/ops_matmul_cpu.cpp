// CPU kernel of the matrix product.
#include <algorithm>

#include "core/ops.h"
#include "core/parallel.h"

namespace dattn {

namespace {

// Many small products run one a tile, few large ones one after the other on all threads.
void matmul_forward_cpu(const Tensor& a, Trans ta, const Tensor& b, Trans tb, Tensor& y) {
  constexpr std::int64_t kManyProducts = 16, kTileProducts = 32768;  // the latter in multiply-adds
  const std::int64_t batch = y.shape().leading(y.rank() - 2), m = y.size(-2), n = y.size(-1);
  const std::int64_t k = a.size(ta == Trans::yes ? -2 : -1);
  dispatch_float("matmul", y.dtype(), [&]<typename T>() {
    const T *pa = a.data<T>(), *pb = b.data<T>();
    T* py = y.data<T>();
    const auto product = [&](auto multiply, std::int64_t i) {
      multiply(ta, tb, m, n, k, T(1), pa + i * m * k, a.size(-1), pb + i * k * n, b.size(-1), T(0), py + i * m * n, n);
    };
    if (batch < kManyProducts) {
      for (std::int64_t i = 0; i < batch; ++i) product(gemm<T>, i);
    } else {
      const std::int64_t work = std::max<std::int64_t>(1, m * n * k);
      parallel_for(batch, std::max<std::int64_t>(1, kTileProducts / work), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) product(gemm_tile<T>, i);
      });
    }
  });
}

}  // namespace

constinit Kernel<void(const Tensor&, Trans, const Tensor&, Trans, Tensor&)> matmul_forward{"matmul_forward",
                                                                                           matmul_forward_cpu};

}  // namespace dattn
