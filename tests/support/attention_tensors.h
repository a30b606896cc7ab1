// The operands of attention for tests, on either device: random inputs, poisoned outputs and scratch, guard bands
// around every tensor.
#pragma once
#include <vector>

#include "kernels/attention/operands.h"
#include "support/formulas.h"
#include "support/guarded_memory.h"
#include "support/segment_cases.h"

namespace scfa::test {

// A problem whose segments a test chooses.
AttentionProblem problem_of(const AttentionShape& shape, AttentionLayout layout, int64_t segments, bool attend_self,
                            bool strided_out = false);

class AttentionTensors : public GuardedMemory, public AttentionOperands {
 public:
  // Fills the inputs, from seeds that count up from `seed`; samples are zero. All else is poisoned.
  AttentionTensors(Context& ctx, const AttentionProblem& problem, uint64_t seed, double scale_of_inputs = 1.0);

  bool shared_qk() const { return problem.layout == AttentionLayout::kSharedQk; }
  bool attend_self() const { return attends_self(problem.patterns[0]); }
  AttentionShape shape() const { return problem.shape; }

  // Of each relation, and builds their lists; documents must have been set before.
  void set_segments(const std::vector<ChooseSegments>& choose) const;
  void set_segments(const ChooseSegments& choose) const { set_segments(std::vector{choose}); }
  // Makes the keys of the queries, in double, for tests of attention alone; assign does it as models do.
  void set_normalised_keys() const;
  // Inputs of another precision or device, and its normalised keys.
  void copy_inputs(const AttentionTensors& from) const;

  using AttentionOperands::forward, AttentionOperands::backward;
  // The same, which poison first what they write, and the scratch.
  void forward() const;
  void backward() const;
  void poison_results() const;  // outputs, gradients, scratch

  // Expects both to agree with the formulas for what these segments let be seen.
  void expect_formulas(double tolerance) const;
  // Whether what lies beside a strided out is untouched.
  bool bystanders_intact() const;
  std::vector<uint8_t> visible() const;

  // out, lse, dq, dk, dv on the host, one behind the other; with shared keys without dk, whose contents are undefined.
  std::vector<double> results() const;
  // The same, and bystanders, as they lie in memory.
  std::vector<Array> result_arrays() const;
};

// Whether both have the same bits; says which tensor has not.
testing::AssertionResult same_results(const std::vector<Array>& a, const std::vector<Array>& b);

}  // namespace scfa::test
