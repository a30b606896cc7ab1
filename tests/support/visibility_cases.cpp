#include "support/visibility_cases.h"

#include <algorithm>
#include <random>

#include "support/pattern_segments.h"

namespace scfa::test {

HeadPatterns patterns_with(const std::vector<Visibility>& by_head, int64_t relations) {
  HeadPatterns patterns;
  for (const Visibility& which : by_head) {
    AttentionPattern pattern = hash_pattern(1, relations - (which.gap > 0 ? 1 : 0));
    pattern.attend_self = which.attend_self;
    pattern.window = which.window;
    pattern.heads = which.heads;
    pattern.near = which.gap;  // the last relation has what is less than the gap back
    patterns.push_back(pattern);
  }
  return patterns;
}

std::vector<double> document_starts(int64_t B, int64_t T, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<double> starts;
  for (int64_t b = 0; b < B; ++b) {
    std::vector<int64_t> lengths{1, 63, 64, 65, 17};
    std::shuffle(lengths.begin(), lengths.end(), random);
    lengths.push_back(T);
    int64_t t = 0;
    for (const int64_t length : lengths)
      for (const int64_t start = t; t < std::min(T, start + length); ++t) starts.push_back(static_cast<double>(start));
  }
  return starts;
}

void prepare(const AttentionTensors& t, const VisibilityCase& of) {
  if (t.document_start) t.write(t.document_start, document_starts(t.shape().B, t.shape().T, 3));
  if (t.shared_qk()) t.set_normalised_keys();
  t.set_segments(of.choose);
}

std::vector<VisibilityCase> visibility_cases(const AttentionShape& shape, AttentionLayout layout) {
  std::vector<VisibilityCase> cases;
  // choices: of segment_choices(), one for each relation.
  const auto add = [&](const std::string& name, const std::vector<Visibility>& by_head, int64_t segments,
                       const std::vector<size_t>& choices, bool documents) {
    VisibilityCase c{name,
                     {.shape = shape,
                      .layout = layout,
                      .patterns = patterns_with(by_head, static_cast<int64_t>(choices.size())),
                      .segments = segments,
                      .relations = static_cast<int64_t>(choices.size()),
                      .documents = documents},
                     {}};
    for (size_t r = 0; r < choices.size(); ++r)
      c.choose.push_back(chosen(segment_choices()[choices[r]], segments, 11 + r));
    cases.push_back(std::move(c));
  };
  constexpr size_t kOne = 0, kTied = 2, kUntied = 3, kDropped = 4, kAllDropped = 6, kSizes = 8;
  for (const int64_t window : {1, 5, 64, 300})
    for (const bool self : {false, true}) {
      const std::string text = concat("window ", window, ", self ", self);
      add(text, {{self, window}}, 1, {kOne}, false);
      add(text + ", tied", {{self, window}}, 4, {kTied}, false);
      add(text + ", untied", {{self, window}}, 3, {kUntied}, false);
    }
  for (const bool self : {false, true}) {
    add("documents", {{self}}, 1, {kOne}, true);
    add("documents, dropped", {{self}}, 3, {kDropped}, true);
    add("documents and window", {{self, 20}}, 2, {kTied}, true);
    add("two relations", {{self}}, 4, {kTied, kTied}, false);
    add("two relations, one of no rows", {{self}}, 3, {kUntied, kAllDropped}, false);
    add("two relations, the first of no rows", {{self}}, 3, {kAllDropped, kUntied}, false);
    add("three relations", {{self}}, 5, {kDropped, kOne, kSizes}, false);
    add("three relations, window and documents", {{self, 40}}, 5, {kDropped, kTied, kSizes}, true);
    add("mixture", {{self, 5, 1}, {!self, 0, 1}, {self, 64}}, 3, {kTied}, false);
    add("gap of 30 and what is near", {{self, 0, 0, 30}}, 3, {kTied, kOne}, false);
    add("gap of 100, window, documents and what is near", {{self, 120, 0, 100}}, 3, {kUntied, kTied}, true);
    add("gap of 1 and what is near", {{self, 0, 0, 1}}, 2, {kTied, kOne}, false);
    add("gap of 2 in some heads", {{self, 0, 1, 2}, {self}}, 4, {kDropped, kTied}, false);
    add("mixture, two relations and documents", {{!self, 0, 2}, {self, 33}}, 3, {kUntied, kTied}, true);
  }
  return cases;
}

}  // namespace scfa::test
