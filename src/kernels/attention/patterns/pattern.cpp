#include "kernels/attention/patterns/pattern.h"

#include <algorithm>

#include "kernels/attention/patterns/descriptor.h"

namespace scfa {

const PatternDescriptor& descriptor_of(const AttentionPattern& pattern) {
  for (const PatternDescriptor* descriptor : kPatterns)
    if (pattern.pattern == descriptor->name) return *descriptor;
  std::string known;
  for (const std::string& name : pattern_names()) known += (known.empty() ? "" : ", ") + name;
  fail("attention.pattern: \"", pattern.pattern, "\" is not known; it must be one of ", known);
}

std::vector<std::string> pattern_names() {
  std::vector<std::string> names;
  for (const PatternDescriptor* descriptor : kPatterns) names.emplace_back(descriptor->name);
  return names;
}

bool attends_self(const AttentionPattern& pattern) {
  return pattern.near > 0 || pattern.attend_self.value_or(descriptor_of(pattern).attend_self);
}

Visibility visibility(const AttentionPattern& pattern, int64_t relation) {
  // The heads have no rows there, so a window would do nothing but make plan() ask for ranges.
  if (relation >= relation_count(pattern)) return {.attend_self = attends_self(pattern), .heads = pattern.heads};
  if (pattern.near > 0 && relation == relation_count(pattern) - 1) return {true, pattern.near, pattern.heads};
  return {attends_self(pattern), pattern.window, pattern.heads, pattern.near};
}

int64_t segment_count(const AttentionPattern& pattern, int64_t T) {
  return descriptor_of(pattern).segments(pattern, T);
}

int64_t relation_count(const AttentionPattern& pattern) {
  const PatternDescriptor& descriptor = descriptor_of(pattern);
  return (descriptor.relations == nullptr ? 1 : descriptor.relations(pattern)) + (pattern.near > 0 ? 1 : 0);
}

std::string describe(const AttentionPattern& p) {
  std::string text = descriptor_of(p).describe(p);
  if (p.window > 0) text += concat(", window ", p.window);
  if (p.near > 0) text += concat(", and the last ", p.near);
  if (p.attend_self) text += *p.attend_self ? ", seeing itself" : ", not seeing itself";
  return text;
}

bool uses_parameter(const AttentionPattern& pattern, std::string_view name) {
  static constexpr std::string_view kOfAll[] = {"pattern", "attend_self", "window", "near", "heads"};
  const auto& its = descriptor_of(pattern).parameters;
  return std::find(std::begin(kOfAll), std::end(kOfAll), name) != std::end(kOfAll) ||
         std::find(std::begin(its), std::end(its), name) != std::end(its);
}

double share_of_pairs(const AttentionPattern& pattern, int64_t T) {
  // The share of the T (T + 1) / 2 causal pairs that are fewer than `tokens` positions apart.
  const auto within = [&](int64_t tokens) {
    const auto length = static_cast<double>(T), window = static_cast<double>(std::min(tokens, T));
    return window * (2 * length - window + 1) / (length * (length + 1));
  };
  const double near = within(pattern.near), in_window = pattern.window == 0 ? 1.0 : within(pattern.window);
  return descriptor_of(pattern).share_of_pairs(pattern, T) * std::max(in_window - near, 0.0) + near;
}

bool learns_bucket_bias(const AttentionPattern& pattern) {
  const PatternDescriptor& descriptor = descriptor_of(pattern);
  return descriptor.learns_bucket_bias != nullptr && descriptor.learns_bucket_bias(pattern);
}

bool has_fixed_directions(const AttentionPattern& pattern) {
  return pattern.fixed_directions || learns_bucket_bias(pattern);  // a bias is learned for fixed directions
}

bool needs_projections(const AttentionPattern& pattern) {
  const PatternDescriptor& descriptor = descriptor_of(pattern);
  return descriptor.needs_projections != nullptr && descriptor.needs_projections(pattern);
}

bool is_causal(const AttentionPattern& pattern) {
  return descriptor_of(pattern).causal;
}

bool shares_keys(const AttentionPattern& pattern) {
  return descriptor_of(pattern).shares_keys;
}

void validate(const AttentionPattern& pattern) {
  const PatternDescriptor& descriptor = descriptor_of(pattern);
  if (descriptor.validate != nullptr) descriptor.validate(pattern);
  require(pattern.window >= 0, "attention.window: must be 0 or more, not ", pattern.window);
  require(pattern.near >= 0, "attention.near: must be 0 or more, not ", pattern.near);
  require(relation_count(pattern) <= kMaxRelations, "attention.near: ", describe(pattern), " has ",
          relation_count(pattern), " relations, where ", kMaxRelations, " are the most");
  require(pattern.heads >= 0, "attention.heads: must be 0 or more, not ", pattern.heads);
}

// ---- those of the heads of a layer ----------------------------------------------------------------------------------

HeadPatterns for_heads(HeadPatterns patterns, int64_t H) {
  int64_t named = 0, others = 0;
  for (const AttentionPattern& entry : patterns) named += entry.heads, others += entry.heads == 0;
  require(others <= 1, "attention.heads: one entry of a mixture may have 0, the heads that no other names, not ",
          others);
  require(others == 0 ? named == H : named < H, "attention.heads: the entries of a layer must name model.n_head = ", H,
          " heads together, not ", named, others == 0 ? "" : " and one more entry that has the others");
  for (AttentionPattern& entry : patterns)
    if (entry.heads == 0) entry.heads = H - named;
  return patterns;
}

int64_t segment_count(const HeadPatterns& patterns, int64_t T) {
  int64_t most = 1;
  for (const AttentionPattern& entry : patterns) most = std::max(most, segment_count(entry, T));
  return most;
}

int64_t relation_count(const HeadPatterns& patterns) {
  int64_t most = 1;
  for (const AttentionPattern& entry : patterns) most = std::max(most, relation_count(entry));
  return most;
}

bool is_causal(const HeadPatterns& patterns) {
  return std::all_of(patterns.begin(), patterns.end(), [](const AttentionPattern& entry) { return is_causal(entry); });
}

bool is_fixed(const HeadPatterns& patterns) {
  return std::all_of(patterns.begin(), patterns.end(),
                     [](const AttentionPattern& entry) { return descriptor_of(entry).fixed; });
}

double share_of_pairs(const HeadPatterns& patterns, int64_t H, int64_t T) {
  double sum = 0;
  for (const AttentionPattern& entry : for_heads(patterns, H))
    sum += share_of_pairs(entry, T) * static_cast<double>(entry.heads);
  return sum / static_cast<double>(H);
}

std::vector<Visibility> visibility(const HeadPatterns& patterns, int64_t relation) {
  std::vector<Visibility> by_head;
  for (const AttentionPattern& entry : patterns) by_head.push_back(visibility(entry, relation));
  return by_head;
}

std::string describe(const HeadPatterns& patterns, int64_t H) {
  if (patterns.size() == 1) return describe(patterns[0]);
  int64_t others = H;
  for (const AttentionPattern& entry : patterns) others -= entry.heads;
  std::string text;
  for (const AttentionPattern& entry : patterns) {
    const int64_t heads = entry.heads == 0 ? others : entry.heads;
    text += concat(text.empty() ? "" : " + ", heads > 0 ? concat(heads) : "other", heads == 1 ? " head " : " heads ",
                   describe(entry));
  }
  return text;
}

void validate(const HeadPatterns& patterns, int64_t H) {
  require(!patterns.empty(), "attention: a layer must have a pattern");
  for (const AttentionPattern& entry : patterns) validate(entry);
  for_heads(patterns, H);
}

}  // namespace scfa
