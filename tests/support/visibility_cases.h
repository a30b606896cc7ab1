// Attention problems in which queries see parts of their segments: windows, documents, several relations, mixtures.
#pragma once
#include <string>
#include <vector>

#include "support/attention_tensors.h"

namespace scfa::test {

struct VisibilityCase {
  std::string name;
  AttentionProblem problem;
  std::vector<ChooseSegments> choose;  // of each relation
};

// Of shapes with three heads or more. Windows of 1, 5, 64 and 300 over all rows and within segments; documents, with
// and without a window; two and three relations; mixtures of heads that see different things.
std::vector<VisibilityCase> visibility_cases(const AttentionShape& shape, AttentionLayout layout);

// Fills document starts, normalised keys and segments of a case.
void prepare(const AttentionTensors& tensors, const VisibilityCase& of);

// Of heads with these visibilities, in so many relations. They draw nothing: whoever takes them chooses the segments.
HeadPatterns patterns_with(const std::vector<Visibility>& by_head, int64_t relations);

// Document starts (B, T) of documents of 1, 63, 64, 65 and 17 tokens, in another order in each sequence, then one of
// the rest.
std::vector<double> document_starts(int64_t B, int64_t T, uint64_t seed);

}  // namespace scfa::test
