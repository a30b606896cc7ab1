// Sums of columns on a CPU.
#pragma once
#include <algorithm>
#include <cstdint>

namespace scfa::cpu {

// sums[c] += the sum of column c of x (N, C). A thread owns whole columns, so the order of the sums is fixed.
inline void add_column_sums(float* sums, const float* x, int64_t N, int64_t C) {
  constexpr int64_t kColumns = 64;
#pragma omp parallel for
  for (int64_t c0 = 0; c0 < C; c0 += kColumns) {
    const int64_t c1 = std::min(c0 + kColumns, C);
    for (int64_t i = 0; i < N; ++i)
      for (int64_t c = c0; c < c1; ++c) sums[c] += x[i * C + c];
  }
}

}  // namespace scfa::cpu
