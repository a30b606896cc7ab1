// Products by cuBLASLt: bf16 in, f32 sums, bf16 out, and f32 gradients of weights added to what is there. cuBLAS counts
// matrices by columns, so a row-major (N, K) is its (K, N), and y = x W^T is asked for as y' = W'^T x'.
#include <cublasLt.h>

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "kernels/device_math.cuh"
#include "kernels/matmul.h"

namespace scfa::gpu {

namespace {

constexpr size_t kLibraryBytes = 32 << 20;  // of the workspace; what is behind it holds partial sums of biases
static_assert(kLibraryBytes < Context::kWorkspaceBytes);

void check(cublasStatus_t status, const char* op) {
  if (status != CUBLAS_STATUS_SUCCESS) fail(op, ": cuBLASLt: ", cublasLtGetStatusString(status));
}

// m x n = (m x k) (k x n), each operand by columns and transposed or not.
struct Product {
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  bool bias;        // added to each column; bf16 like the output
  bool f32_output;  // added to what is there; otherwise bf16, overwritten
  unsigned alignment;
  auto key() const { return std::make_tuple(m, n, k, transpose_a, transpose_b, bias, f32_output, alignment); }
};

struct Destroy {
  void operator()(cublasLtMatmulDesc_t x) const { cublasLtMatmulDescDestroy(x); }
  void operator()(cublasLtMatrixLayout_t x) const { cublasLtMatrixLayoutDestroy(x); }
  void operator()(cublasLtMatmulPreference_t x) const { cublasLtMatmulPreferenceDestroy(x); }
};
template <class T>
using Owned = std::unique_ptr<std::remove_pointer_t<T>, Destroy>;

Owned<cublasLtMatrixLayout_t> layout(cudaDataType_t type, int64_t rows, int64_t columns, const char* op) {
  cublasLtMatrixLayout_t made = nullptr;
  check(cublasLtMatrixLayoutCreate(&made, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), rows), op);
  return Owned<cublasLtMatrixLayout_t>(made);
}

// A product as cuBLASLt wants it described, with the algorithm that its heuristics chose. They depend on shapes and
// alignment only, so a run that is resumed makes the same choice.
struct Recipe {
  Owned<cublasLtMatmulDesc_t> operation;
  Owned<cublasLtMatrixLayout_t> a, b, out;
  cublasLtMatmulAlgo_t algorithm;

  Recipe(cublasLtHandle_t handle, const Product& p, const char* op) {
    cublasLtMatmulDesc_t made = nullptr;
    check(cublasLtMatmulDescCreate(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F), op);
    operation.reset(made);
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
      check(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof value), op);
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (p.bias) set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    a = layout(CUDA_R_16BF, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k, op);
    b = layout(CUDA_R_16BF, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n, op);
    out = layout(p.f32_output ? CUDA_R_32F : CUDA_R_16BF, p.m, p.n, op);

    cublasLtMatmulPreference_t wanted = nullptr;
    check(cublasLtMatmulPreferenceCreate(&wanted), op);
    const Owned<cublasLtMatmulPreference_t> preference(wanted);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value), op);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kLibraryBytes);
    // Sums that are cut into parts are put together in a fixed order, never by atomics.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      prefer(attribute, static_cast<uint32_t>(p.alignment));
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, operation.get(), a.get(), b.get(), out.get(),
                                                                 out.get(), preference.get(), 1, &found, &count);
    require(status == CUBLAS_STATUS_SUCCESS && count > 0, op, ": cuBLASLt has no algorithm for a product of ", p.m,
            " x ", p.k, " and ", p.k, " x ", p.n);
    algorithm = found.algo;
  }
};

// cuBLASLt's handle and the recipes made so far; lives in Context::blas().
class Library {
 public:
  explicit Library(const char* op) { check(cublasLtCreate(&handle_), op); }
  ~Library() { cublasLtDestroy(handle_); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  static Library& of(Context& ctx, const char* op) {
    if (!ctx.blas()) ctx.blas() = std::make_shared<Library>(op);
    return *static_cast<Library*>(ctx.blas().get());
  }

  // out = a b, or out += a b for f32 output.
  void run(Context& ctx, Product p, const void* a, const void* b, const void* bias, void* out, const char* op) {
    uintptr_t bits = 256;  // the largest alignment that matters
    for (const void* pointer : {a, b, bias, static_cast<const void*>(out)})
      bits |= reinterpret_cast<uintptr_t>(pointer);
    p.alignment = static_cast<unsigned>(bits & -bits);
    auto found = recipes_.find(p.key());
    if (found == recipes_.end()) found = recipes_.emplace(p.key(), Recipe(handle_, p, op)).first;
    const Recipe& recipe = found->second;
    if (p.bias)
      check(
          cublasLtMatmulDescSetAttribute(recipe.operation.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias),
          op);
    const float alpha = 1.0f, beta = p.f32_output ? 1.0f : 0.0f;
    check(cublasLtMatmul(handle_, recipe.operation.get(), &alpha, a, recipe.a.get(), b, recipe.b.get(), &beta, out,
                         recipe.out.get(), out, recipe.out.get(), &recipe.algorithm, ctx.workspace(), kLibraryBytes,
                         ctx.stream()),
          op);
    check_launch(op, ctx.stream());
  }

 private:
  cublasLtHandle_t handle_ = nullptr;
  std::map<decltype(Product{}.key()), Recipe> recipes_;
};

// ---- gradients of biases --------------------------------------------------------------------------------------------

constexpr int kColumns = 64, kRowThreads = 8;  // a block's columns, in pairs, and how many rows it reads at a time

// partial[part][c] = sum of a contiguous range of rows. grid: (M / kColumns, parts).
__global__ void __launch_bounds__(kColumns / 2 * kRowThreads)
    sum_columns_kernel(float* partial, const __nv_bfloat16* dy, int64_t N, int64_t M) {
  __shared__ float2 sums[kRowThreads][kColumns / 2];
  const int pair = threadIdx.x % (kColumns / 2), r = threadIdx.x / (kColumns / 2);
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kColumns + 2 * pair;
  const int64_t begin = N * blockIdx.y / gridDim.y, end = N * (blockIdx.y + 1) / gridDim.y;
  float2 sum = make_float2(0.0f, 0.0f);
  for (int64_t i = begin + r; i < end; i += kRowThreads) {
    if (c + 1 < M && M % 2 == 0) {
      const float2 v = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(dy + i * M + c));
      sum.x += v.x, sum.y += v.y;
    } else {
      if (c < M) sum.x += __bfloat162float(dy[i * M + c]);
      if (c + 1 < M) sum.y += __bfloat162float(dy[i * M + c + 1]);
    }
  }
  sums[r][pair] = sum;
  __syncthreads();
  if (r != 0) return;
  for (int other = 1; other < kRowThreads; ++other) sum.x += sums[other][pair].x, sum.y += sums[other][pair].y;
  if (c < M) partial[blockIdx.y * M + c] = sum.x;
  if (c + 1 < M) partial[blockIdx.y * M + c + 1] = sum.y;
}

__global__ void __launch_bounds__(128) add_parts_kernel(float* dbias, const float* partial, int parts, int64_t M) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= M) return;
  float sum = 0.0f;
  for (int i = 0; i < parts; ++i) sum += partial[i * M + c];
  dbias[c] += sum;
}

void add_bias_gradient(Context& ctx, const Tensor& dbias, const ConstTensor& dy, const char* op) {
  const int64_t N = dy.rows(), M = dy.size(-1);
  auto* partial = reinterpret_cast<float*>(static_cast<char*>(ctx.workspace()) + kLibraryBytes);
  const int64_t room = (Context::kWorkspaceBytes - static_cast<int64_t>(kLibraryBytes)) / (M * 4);
  const auto parts = static_cast<unsigned>(std::min<int64_t>({room, 128, (N + 63) / 64}));
  require(parts > 0, op, ": a bias of ", M, " is too long");
  sum_columns_kernel<<<dim3(blocks_for(M, kColumns), parts), kColumns / 2 * kRowThreads, 0, ctx.stream()>>>(
      partial, static_cast<const __nv_bfloat16*>(dy.data), N, M);
  check_launch(op, ctx.stream());
  add_parts_kernel<<<blocks_for(M, 128), 128, 0, ctx.stream()>>>(dbias.as<float>(), partial, static_cast<int>(parts),
                                                                 M);
  check_launch(op, ctx.stream());
}

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------

void matmul_forward(Context& ctx, Tensor y, ConstTensor x, ConstTensor w, ConstTensor bias) {
  constexpr const char* kOp = "matmul_forward";
  const int64_t N = x.rows(), K = w.size(1), M = w.size(0);
  Library::of(ctx, kOp).run(ctx, {M, N, K, true, false, static_cast<bool>(bias), false, 0}, w.data, x.data, bias.data,
                            y.data, kOp);
}

void matmul_backward(Context& ctx, Tensor dx, Tensor dw, Tensor dbias, ConstTensor dy, ConstTensor x, ConstTensor w) {
  constexpr const char* kOp = "matmul_backward";
  const int64_t N = dy.rows(), K = w.size(1), M = w.size(0);
  Library& library = Library::of(ctx, kOp);
  if (dx) library.run(ctx, {K, N, M, false, false, false, false, 0}, w.data, dy.data, nullptr, dx.data, kOp);
  if (dw) library.run(ctx, {K, M, N, false, true, false, true, 0}, x.data, dy.data, nullptr, dw.data, kOp);
  if (dbias) add_bias_gradient(ctx, dbias, dy, kOp);
}

}  // namespace scfa::gpu
