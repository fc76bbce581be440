// Matrix products by cuBLASLt. It counts columns first, so C^T = op(B)^T op(A)^T is what it is asked for: the same
// bytes.
#include <cublasLt.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>

#include "cuda/context.h"
#include "cuda/gemm.h"

namespace dattn::cuda {

namespace {

constexpr std::size_t kWorkspace = std::size_t{32} << 20;

void check_blas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  const std::string text = fmt::format("cuda: {}: {} (cuBLASLt)", what, cublasLtGetStatusString(status));
  if (status == CUBLAS_STATUS_ALLOC_FAILED) throw OutOfMemory(text);
  fail("{}", text);
}

cudaDataType_t type_of(Dtype dtype) { return dtype == Dtype::bfloat16 ? CUDA_R_16BF : CUDA_R_32F; }
cublasOperation_t operation(Trans t) { return t == Trans::yes ? CUBLAS_OP_T : CUBLAS_OP_N; }

// A matrix as it is stored: `rows` runs of `ld` elements.
cublasLtMatrixLayout_t make_layout(Dtype dtype, std::int64_t rows, std::int64_t columns, std::int64_t ld,
                                   std::int64_t batch, std::int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  check_blas(cublasLtMatrixLayoutCreate(&layout, type_of(dtype), static_cast<std::uint64_t>(columns),
                                        static_cast<std::uint64_t>(rows), ld),
             "layout of a matrix");
  const auto count = static_cast<std::int32_t>(batch);
  check_blas(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof(count)),
             "batch");
  check_blas(
      cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof(stride)),
      "stride");
  return layout;
}

// What is prepared once for a shape, and lives as long as the process.
struct Plan {
  cublasLtMatmulDesc_t description = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  std::optional<cublasLtMatmulAlgo_t> algorithm;

  template <typename T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    check_blas(cublasLtMatmulDescSetAttribute(description, attribute, &value, sizeof(value)),
               "description of a product");
  }
};

using Alignment = std::array<std::uint32_t, 4>;  // of A, B, C with D, and bias (0 without one)

struct Library {
  std::mutex mutex;
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  std::map<std::pair<Gemm, Alignment>, Plan> plans;

  void open() {  // under the mutex
    if (workspace) return;
    if (!handle) check_blas(cublasLtCreate(&handle), "start");
    workspace = device_pool::allocate(kWorkspace);
  }
};

Library& library() {
  static auto* l = new Library;
  return *l;
}

// The largest power of two up to 256 that an address is a multiple of; 0 of none.
std::uint32_t alignment_of(const void* p) {
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  return static_cast<std::uint32_t>(std::min<std::uintptr_t>(256, address & (~address + 1)));
}

// The library's first choice among algorithms that give the same bits every time (none that add with atomics). In
// bfloat16 there may be none, as for some factors that lie at odd places.
void choose_algorithm(Library& l, const Gemm& s, const Alignment& alignment, Plan& plan) {
  cublasLtMatmulPreference_t preference = nullptr;
  check_blas(cublasLtMatmulPreferenceCreate(&preference), "choice of an algorithm");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check_blas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
               "choice of an algorithm");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
  // Parts of a sum that is cut are kept in float32, whatever the type of the result.
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment[1]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment[0]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment[2]);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment[2]);
  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(l.handle, plan.description, plan.b, plan.a, plan.c,
                                                               plan.c, preference, 1, &result, &found);
  cublasLtMatmulPreferenceDestroy(preference);
  if (status == CUBLAS_STATUS_SUCCESS && found > 0) {
    plan.algorithm = result.algo;
    return;
  }
  check(s.in == Dtype::bfloat16 || s.out == Dtype::bfloat16,
        "cuda: cuBLASLt has no algorithm for [{},{}] x [{},{}] in {} ({})", s.m, s.k, s.k, s.n, name(s.in),
        cublasLtGetStatusString(status));
}

Plan make_plan(Library& l, const Gemm& s, const Alignment& alignment, const void* bias) {
  Plan plan;
  check_blas(cublasLtMatmulDescCreate(&plan.description, CUBLAS_COMPUTE_32F, CUDA_R_32F), "description of a product");
  plan.set(CUBLASLT_MATMUL_DESC_TRANSA, operation(s.tb));
  plan.set(CUBLASLT_MATMUL_DESC_TRANSB, operation(s.ta));
  if (s.has_bias) {
    plan.set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    plan.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);  // whose alignment the choice depends on
  }
  const bool ta = s.ta == Trans::yes, tb = s.tb == Trans::yes;
  plan.a = make_layout(s.in, ta ? s.k : s.m, ta ? s.m : s.k, s.lda, s.batch, s.stride_a);
  plan.b = make_layout(s.in, tb ? s.n : s.k, tb ? s.k : s.n, s.ldb, s.batch, s.stride_b);
  plan.c = make_layout(s.out, s.m, s.n, s.ldc, s.batch, s.stride_c);
  choose_algorithm(l, s, alignment, plan);
  return plan;
}

}  // namespace

static const Plan& plan_for(Library& l, const Gemm& s, const Alignment& alignment, const void* bias) {
  auto found = l.plans.find({s, alignment});
  if (found == l.plans.end()) found = l.plans.emplace(std::pair(s, alignment), make_plan(l, s, alignment, bias)).first;
  Plan& plan = found->second;
  if (s.has_bias) plan.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  return plan;
}

void detail::multiply(const Gemm& s, float alpha, const void* a, const void* b, float beta, void* c, const void* bias,
                      const void* d) {
  Library& l = library();
  std::unique_lock lock(l.mutex);
  l.open();
  const Alignment alignment{alignment_of(a), alignment_of(b), std::min(alignment_of(c), alignment_of(d)),
                            alignment_of(bias)};
  const Plan& plan = plan_for(l, s, alignment, bias);
  if (!plan.algorithm) {
    lock.unlock();
    return multiply_in_float32(s, alpha, a, b, beta, c, bias, d);
  }
  check_blas(cublasLtMatmul(l.handle, plan.description, &alpha, b, plan.b, a, plan.a, &beta, d, plan.c, c, plan.c,
                            &*plan.algorithm, l.workspace, kWorkspace, stream()),
             "matrix product");
}

}  // namespace dattn::cuda
