// GEMMs by cuBLASLt, and which of its algorithms each of them takes: by the library's heuristics, or by
// measuring the ones that these propose. GPU only.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/context.h"
#include "core/dtype.h"

namespace scfa::gpu {

// m x n = (m x k) (k x n), each operand by columns and transposed or not; f32 sums. Operands are bf16, or both are in
// 8-bit floating point and a alone is transposed (Hopper multiplies nothing else); then sizes are multiples of 16 and
// sums have 14 bits.
struct Gemm {
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  bool bias;        // added to each column; bf16 like the output
  bool f32_output;  // added to what is there; otherwise bf16, overwritten
  DType a_type = DType::kBF16, b_type = DType::kBF16;
};

struct GemmOperands {
  const void *a, *b, *bias;
  void* out;
  const float *a_scale = nullptr, *b_scale = nullptr;  // on the device; of 8-bit operands
};

// out = a b, or out += a b for f32 output. Uses the workspace. Throws Error naming op.
void run_gemm(Context& ctx, const Gemm& gemm, const GemmOperands& operands, const char* op);

struct GemmAlgorithm {
  std::string gemm;                   // sizes, transposition, types and alignment
  std::array<uint64_t, 8> algorithm;  // in the layout of one version of the library
  double milliseconds = 0;            // that it took when it was measured
};

// The name and version of the library.
std::string gemm_library();

// While on, a GEMM that has no choice yet is measured when it runs first: the algorithms that the heuristics propose
// take turns on its operands, and the fastest is kept. It runs many times, so an f32 output is not the sum any more.
void measure_gemms(Context& ctx, bool on);
// Choices made before, by the same library on the same kind of GPU. Those that the library refuses are ignored.
void set_gemm_algorithms(Context& ctx, std::vector<GemmAlgorithm> choices);
void clear_gemm_algorithms(Context& ctx);
// All that were set or measured; those of GEMMs that have run.
std::vector<GemmAlgorithm> gemm_algorithms(Context& ctx);
std::vector<GemmAlgorithm> used_gemm_algorithms(Context& ctx);

}  // namespace scfa::gpu
