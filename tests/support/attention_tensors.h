// The tensors of one attention call: random inputs, poisoned outputs and scratch, laid out as models lay them out.
#pragma once
#include <vector>

#include "kernels/attention/attention.h"
#include "support/formulas.h"
#include "support/segment_cases.h"

namespace scfa::test {

enum class Layout {
  kPacked,    // each a tensor of its own
  kShared,    // q, v in one (B, T, 2, H, D) and packed keys beside it; out in the middle of a (B, T, 3, H, D)
  kSeparate,  // q, k, v in one (B, T, 3, H, D)
  kByHead,    // each a (B, H, T, D) of its own
};

class AttentionTensors {
 public:
  AttentionTensors(const AttentionShape& shape, Layout layout, uint64_t seed, double scale_of_inputs = 1.0);

  // Each poisons first what it writes, and its scratch.
  void forward(const Segments& segments);
  void backward(const Segments& segments, const ConstTensor& inverse_norm = {});
  // Expects both to agree with the formulas for what these segments let be seen.
  void expect_formulas(const Segments& segments, bool attend_self, double tolerance);
  // What no op may touch: the third part of out's tensor in Layout::kShared.
  bool bystanders_intact() const;

  std::vector<double> results() const;  // out, lse, dq, dk, dv one behind the other

  const AttentionShape shape;
  const float scale;
  Tensor q, k, v, out, dout, dq, dk, dv;
  Array lse;

 private:
  std::vector<Array> inputs_, outputs_, gradients_;
};

}  // namespace scfa::test
