// cuBLAS counts matrices by columns, so a row-major (N, K) is its (K, N), and y = x W^T is asked for as y' = W'^T x'.
#include "kernels/linear/gemm.h"

#include <cublasLt.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>

#include "kernels/linear/workspace.h"

namespace scfa::gpu {

namespace {

static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(GemmAlgorithm::algorithm));

void check(cublasStatus_t status, const char* op) {
  if (status != CUBLAS_STATUS_SUCCESS) fail(op, ": cuBLASLt: ", cublasLtGetStatusString(status));
}

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

cudaDataType_t library_type(DType type) {
  return type == DType::kBF16 ? CUDA_R_16BF : type == DType::kE4M3 ? CUDA_R_8F_E4M3 : CUDA_R_8F_E5M2;
}

// A GEMM as cuBLASLt wants it described, and the algorithm that it takes.
struct Recipe {
  cublasLtHandle_t handle;
  const Gemm gemm;
  Owned<cublasLtMatmulDesc_t> operation;
  Owned<cublasLtMatrixLayout_t> a, b, out;
  cublasLtMatmulAlgo_t algorithm{};

  Recipe(cublasLtHandle_t with, const Gemm& p, const char* op) : handle(with), gemm(p) {
    cublasLtMatmulDesc_t made = nullptr;
    check(cublasLtMatmulDescCreate(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F), op);
    operation.reset(made);
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
      check(cublasLtMatmulDescSetAttribute(operation.get(), attribute, &value, sizeof value), op);
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (p.bias) set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    // The tensor cores' own accumulators, of 14 bits: an error of about 2^-13 of the sums beside 2^-4 of operands.
    if (scaled()) set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});
    a = layout(library_type(p.a_type), p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k, op);
    b = layout(library_type(p.b_type), p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n, op);
    out = layout(p.f32_output ? CUDA_R_32F : CUDA_R_16BF, p.m, p.n, op);
  }

  bool scaled() const { return gemm.a_type != DType::kBF16; }

  // Up to `most` algorithms, the one that the library expects to be fastest first. They depend on shapes and alignment
  // only, so a run that is resumed gets the same ones.
  std::vector<cublasLtMatmulAlgo_t> candidates(int most, unsigned alignment, const char* op) const {
    cublasLtMatmulPreference_t made = nullptr;
    check(cublasLtMatmulPreferenceCreate(&made), op);
    const Owned<cublasLtMatmulPreference_t> preference(made);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value), op);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<size_t>(kLibraryBytes));
    // Sums that are cut into parts are put together in a fixed order, never by atomics.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      prefer(attribute, static_cast<uint32_t>(alignment));
    std::vector<cublasLtMatmulHeuristicResult_t> found(static_cast<size_t>(most));
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, operation.get(), a.get(), b.get(), out.get(), out.get(), preference.get(), most, found.data(), &count);
    require(status == CUBLAS_STATUS_SUCCESS && count > 0, op, ": cuBLASLt has no algorithm for a GEMM of ", gemm.m,
            " x ", gemm.k, " and ", gemm.k, " x ", gemm.n);
    std::vector<cublasLtMatmulAlgo_t> algorithms;
    algorithms.reserve(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) algorithms.push_back(found[static_cast<size_t>(i)].algo);
    return algorithms;
  }

  bool takes(const cublasLtMatmulAlgo_t& candidate) const {
    cublasLtMatmulHeuristicResult_t result{};
    return cublasLtMatmulAlgoCheck(handle, operation.get(), a.get(), b.get(), out.get(), out.get(), &candidate,
                                   &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= static_cast<size_t>(kLibraryBytes);
  }

  // Bias and scales are part of the description. cuBLASLt looks at whether there are scales when it proposes
  // algorithms.
  void point_at(const GemmOperands& o) const {
    const auto point = [&](cublasLtMatmulDescAttributes_t attribute, const auto& pointer) {
      cublasLtMatmulDescSetAttribute(operation.get(), attribute, &pointer, sizeof pointer);
    };
    if (gemm.bias) point(CUBLASLT_MATMUL_DESC_BIAS_POINTER, o.bias);
    if (scaled()) {
      point(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, o.a_scale);
      point(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, o.b_scale);
    }
  }

  cublasStatus_t launch(const Context& ctx, const cublasLtMatmulAlgo_t& with, const GemmOperands& o) const {
    point_at(o);
    const float alpha = 1.0f, beta = gemm.f32_output ? 1.0f : 0.0f;
    return cublasLtMatmul(handle, operation.get(), &alpha, o.a, a.get(), o.b, b.get(), &beta, o.out, out.get(), o.out,
                          out.get(), &with, ctx.workspace(), kLibraryBytes, ctx.stream());
  }

  // Takes the candidate of the least median time, and returns that in milliseconds. All take turns, so that a change of
  // the GPU's clock meets all of them.
  double measure(const Context& ctx, const std::vector<cublasLtMatmulAlgo_t>& algorithms,
                 const GemmOperands& operands) {
    constexpr int kRounds = 7, kLaunches = 2;
    std::vector<std::vector<double>> times(algorithms.size());
    const Event from = create_event(true), to = create_event(true);
    for (int round = 0; round <= kRounds; ++round)  // the first one loads kernels
      for (size_t i = 0; i < algorithms.size(); ++i) {
        bool launched = true;
        record(from, ctx.stream());
        for (int n = 0; n < kLaunches; ++n)
          launched = launched && launch(ctx, algorithms[i], operands) == CUBLAS_STATUS_SUCCESS;
        record(to, ctx.stream());
        synchronize(to);
        if (round > 0) times[i].push_back(launched ? milliseconds_between(from, to) / kLaunches : INFINITY);
      }
    destroy_event(from), destroy_event(to);
    double least = INFINITY;
    for (size_t i = 0; i < algorithms.size(); ++i) {
      std::nth_element(times[i].begin(), times[i].begin() + kRounds / 2, times[i].end());
      if (const double median = times[i][kRounds / 2]; median < least) least = median, algorithm = algorithms[i];
    }
    return least;
  }
};

std::string key_of(const Gemm& p, unsigned alignment) {
  const std::string types = p.a_type == DType::kBF16 ? "" : concat(' ', name_of(p.a_type), ' ', name_of(p.b_type));
  return concat(p.m, 'x', p.n, 'x', p.k, p.transpose_a ? " T" : " N", p.transpose_b ? "T" : "N", types,
                p.f32_output ? " f32" : " bf16", p.bias ? " bias" : "", " aligned ", alignment);
}

// cuBLASLt's handle, the recipes made so far and the choices; lives in Context::blas().
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

  void run(Context& ctx, const Gemm& gemm, const GemmOperands& operands, const char* op) {
    uintptr_t bits = 256;  // the largest alignment that matters
    for (const void* pointer : {operands.a, operands.b, operands.bias, static_cast<const void*>(operands.out)})
      bits |= reinterpret_cast<uintptr_t>(pointer);
    const auto alignment = static_cast<unsigned>(bits & -bits);
    const std::string key = key_of(gemm, alignment);
    auto found = recipes_.find(key);
    if (found == recipes_.end() || (measuring_ && !choices_.contains(key))) {
      auto recipe = std::make_unique<Recipe>(handle_, gemm, op);
      recipe->point_at(operands);
      choose(ctx, key, *recipe, alignment, operands, op);
      found = recipes_.insert_or_assign(key, std::move(recipe)).first;
    }
    check(found->second->launch(ctx, found->second->algorithm, operands), op);
    check_launch(op, ctx.stream());
  }

  void set_measuring(bool on) { measuring_ = on; }
  void set(std::vector<GemmAlgorithm> choices) {
    for (GemmAlgorithm& choice : choices) {
      recipes_.erase(choice.gemm);
      choices_[choice.gemm] = std::move(choice);
    }
  }
  void clear() {
    recipes_.clear();
    choices_.clear();
  }
  std::vector<GemmAlgorithm> choices(bool used_only) const {
    std::vector<GemmAlgorithm> all;
    for (const auto& [key, choice] : choices_)
      if (!used_only || recipes_.contains(key)) all.push_back(choice);
    return all;
  }

 private:
  void choose(Context& ctx, const std::string& key, Recipe& recipe, unsigned alignment, const GemmOperands& operands,
              const char* op) {
    if (const auto choice = choices_.find(key); choice != choices_.end()) {
      std::memcpy(&recipe.algorithm, choice->second.algorithm.data(), sizeof recipe.algorithm);
      if (recipe.takes(recipe.algorithm)) return;
      choices_.erase(choice);
    }
    constexpr int kMostCandidates = 16;
    const std::vector<cublasLtMatmulAlgo_t> algorithms =
        recipe.candidates(measuring_ ? kMostCandidates : 1, alignment, op);
    recipe.algorithm = algorithms[0];
    if (!measuring_) return;
    GemmAlgorithm choice{.gemm = key, .algorithm = {}, .milliseconds = recipe.measure(ctx, algorithms, operands)};
    if (!std::isfinite(choice.milliseconds)) return;  // none could be launched: the first one will say why
    std::memcpy(choice.algorithm.data(), &recipe.algorithm, sizeof recipe.algorithm);
    choices_[key] = choice;
  }

  cublasLtHandle_t handle_ = nullptr;
  bool measuring_ = false;
  std::map<std::string, std::unique_ptr<Recipe>> recipes_;
  std::map<std::string, GemmAlgorithm> choices_;
};

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------

void run_gemm(Context& ctx, const Gemm& gemm, const GemmOperands& operands, const char* op) {
  Library::of(ctx, op).run(ctx, gemm, operands, op);
}

std::string gemm_library() {
  const size_t version = cublasLtGetVersion();  // 130002 is 13.0.2
  return concat("cuBLASLt ", version / 10000, '.', version / 100 % 100, '.', version % 100);
}

void measure_gemms(Context& ctx, bool on) {
  Library::of(ctx, "measure_gemms").set_measuring(on);
}

void set_gemm_algorithms(Context& ctx, std::vector<GemmAlgorithm> choices) {
  Library::of(ctx, "set_gemm_algorithms").set(std::move(choices));
}

void clear_gemm_algorithms(Context& ctx) {
  Library::of(ctx, "clear_gemm_algorithms").clear();
}

std::vector<GemmAlgorithm> gemm_algorithms(Context& ctx) {
  return Library::of(ctx, "gemm_algorithms").choices(false);
}

std::vector<GemmAlgorithm> used_gemm_algorithms(Context& ctx) {
  return Library::of(ctx, "used_gemm_algorithms").choices(true);
}

}  // namespace scfa::gpu
