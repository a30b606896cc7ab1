// Formulas that several tests need, plainly and in double.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention/operands.h"
#include "support/array.h"

namespace scfa::test {

// Rotary embedding of x, (B, T, H, D): the pair (x[d], x[d + D/2]) as a complex number, times e^(i angle) with the
// angle direction * (first + t) * theta^(-2d/D).
std::vector<double> rotated(std::vector<double> x, int64_t T, int64_t H, int64_t D, int64_t first, double theta,
                            int direction);

// Rows of x, each of D, scaled to length one.
std::vector<double> normalised(std::vector<double> x, int64_t D);

// How often a query sees a key, [b, h, i, j]: in how many relations they are of one segment, the key is not later than
// the query (attend_self), or earlier (not), and within the window of the head. document_start: (B, T) i32, or empty.
std::vector<uint8_t> visibility(std::span<const Segments> relations, std::span<const Visibility> by_head,
                                const ConstTensor& document_start = {});
inline std::vector<uint8_t> visibility(const Segments& segments, const Visibility& which) {
  return visibility(std::span(&segments, 1), std::span(&which, 1));
}

// softmax(scale * q . k) v over the visible keys, each as often as it is seen, by definition and in O(T^2).
// q: (B, T, H, D); k, v: (B, T, H_kv, D), each head of them for H / H_kv heads of q.
struct AttentionFormula {
  std::vector<double> out, lse;  // (B, T, H, D); (B, H, T) in log2 units, +inf where nothing is seen
  AttentionFormula(const AttentionShape& shape, const std::vector<double>& q, const std::vector<double>& k,
                   const std::vector<double>& v, const std::vector<uint8_t>& visible, double scale);
};

// Its gradients, by the chain rule through the full probability matrix.
struct AttentionGradients {
  std::vector<double> dq, dk, dv;
  AttentionGradients(const AttentionShape& shape, const std::vector<double>& q, const std::vector<double>& k,
                     const std::vector<double>& v, const std::vector<uint8_t>& visible, double scale,
                     const std::vector<double>& dout);
};

}  // namespace scfa::test
