// Times of single ops against what the device can do.
#pragma once
#include <string>
#include <vector>

#include "kernels/attention/patterns/pattern.h"

namespace scfa {

// Sizes of the operands; what an op has no use for it ignores.
struct OpShape {
  int64_t rows = 0;  // tokens; sequences are rows / length
  int64_t width = 768, outputs = 3072, vocabulary = 50304, parameters = 0;
  int64_t length = 0, heads = 12, head_dim = 64;
  AttentionPattern pattern;
};

std::vector<std::string> op_names();

// Prints a row for each named op: time, bytes moved at least (each operand once) and FLOPs, and what share that is of a
// large copy's and a large GEMM's rate, measured first. Throws Error for a name that is not in op_names().
void bench_ops(Context& ctx, const std::vector<std::string>& names, const OpShape& shape, int repeats);

}  // namespace scfa
