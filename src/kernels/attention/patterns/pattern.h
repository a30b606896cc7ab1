// Attention patterns. A pattern answers one question: which segment does each query and each key belong to? It may
// answer it several times: each answer is a relation, and a query attends to a key once for every relation in which it
// sees it. A layer has one pattern for all heads, or a mixture of patterns for ranges of heads.
//   dense  all in one segment
//   hash   the bucket of a random-projection hash: argmax over [xR, -xR]        arXiv:2306.01160, section 3.3
//   drop   kept rows in one segment, dropped rows in none                       arXiv:2306.01160, section 3.2
//   reformer  chunks of the order by bucket, own and previous; not causal       arXiv:2001.04451
//   blocks    a query's own block and the best of those before, by mean key     arXiv:2502.13189
// Adding one: a file of its own beside this one (NAME.cpp, and NAME.cu for the GPU) that defines its descriptor, the
// descriptor's name in descriptor.h's list, and its parameters here.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/fields.h"
#include "kernels/attention/segments.h"

namespace scfa {

inline constexpr int64_t kMaxRounds = kMaxRelations;
inline constexpr int64_t kMaxProbes = 4;
inline constexpr int64_t kMaxBlock = 1 << 20;  // tokens of a block or a chunk

struct AttentionPattern {
  std::string pattern = "dense";
  int64_t buckets = 16;
  int64_t rounds = 1;
  int64_t probes = 1;
  std::string balance = "none";
  double bias_rate = 0;
  bool fixed_directions = false;
  int64_t chunk = 0;
  int64_t block = 512;
  int64_t top_k = 3;
  double drop_rate = 0.5;
  std::optional<bool> attend_self;
  int64_t window = 0;
  int64_t near = 0;
  int64_t heads = 0;

  friend bool operator==(const AttentionPattern&, const AttentionPattern&) = default;
};

std::vector<std::string> pattern_names();

template <class Pattern, class Visit>
void visit_fields_of_pattern(Pattern& p, Visit&& visit) {
  visit("pattern", p.pattern,
        "which tokens see each other; with reformer this depends on later tokens: it is for comparison only",
        one_of(pattern_names()));
  visit("buckets", p.buckets, "hash, reformer: buckets per head; 1 (hash) or even", between(1, 64));
  visit("rounds", p.rounds,
        "hash, reformer: independent hashes per head; a token sees those that any of them puts into its bucket, and a "
        "pair that several put together counts that many times in the softmax",
        between(1, static_cast<double>(kMaxRounds)));
  visit("probes", p.probes,
        "hash: in each round a query sees the keys of this many buckets, those with its highest scores (multi-probe "
        "LSH); a key is in its best bucket only. At most half of the buckets",
        between(1, static_cast<double>(kMaxProbes)));
  visit("balance", p.balance,
        "hash: how scores are standardised by those of earlier tokens of the same sequence and head, so that buckets "
        "have about one size: none, as in the paper; mean: minus their mean; prefix: also divided by their standard "
        "deviation",
        one_of({"none", "mean", "prefix"}));
  visit("bias_rate", p.bias_rate,
        "hash: how fast a bias per bucket, added to its scores, learns to even out the sizes of buckets over all "
        "sequences, from those of the steps so far; 0.1 is fast; 0: no bias. With it directions are fixed",
        between(0, 1));
  visit("fixed_directions", p.fixed_directions,
        "hash, reformer: random directions are drawn once (true), or anew in every step (false), as in the paper",
        FieldRule{});
  visit("chunk", p.chunk, "reformer: tokens per chunk of the order by bucket; 0: sequence length / buckets",
        between(0, kMaxBlock));
  visit("block", p.block, "blocks: tokens per block", between(1, kMaxBlock));
  visit("top_k", p.top_k, "blocks: how many blocks a query sees, its own included",
        between(1, static_cast<double>(kMaxRelations)));
  visit("drop_rate", p.drop_rate, "drop: fraction of queries and of keys left out, drawn per head", between(0, 1));
  visit("attend_self", p.attend_self,
        "a token sees itself; by default false for hash and reformer, true for the others", FieldRule{});
  visit("window", p.window,
        "of the tokens that the pattern lets it see, a token sees only those fewer than so many positions back, itself "
        "included; 0: all",
        at_least(0));
  visit(
      "near", p.near,
      "besides what its pattern lets it see, a token sees those fewer than so many positions back, itself included, in "
      "the same softmax; 0: no others",
      at_least(0));
  visit("heads", p.heads, "in a mixture: of so many heads; 0: of all heads that no other entry names",
        between(0, 65535));
}

// ---- one pattern ----------------------------------------------------------------------------------------------------
bool attends_self(const AttentionPattern& pattern);
Visibility visibility(const AttentionPattern& pattern, int64_t relation);
int64_t segment_count(const AttentionPattern& pattern, int64_t T);
// The pattern's own relations, plus a last one if near > 0.
int64_t relation_count(const AttentionPattern& pattern);
std::string describe(const AttentionPattern& pattern);  // "dense", "hash with 16 buckets", "drop at rate 0.5"
// Whether the pattern uses a parameter, by its name in configs.
bool uses_parameter(const AttentionPattern& pattern, std::string_view name);
// The expected share of the causal pairs of T tokens that is visible, a pair counted once per relation. Assumes that
// buckets are balanced and the pattern's pairs spread evenly, so that a window leaves the same share of them as of all.
double share_of_pairs(const AttentionPattern& pattern, int64_t T);
bool needs_projections(const AttentionPattern& pattern);
bool learns_bucket_bias(const AttentionPattern& pattern);
bool has_fixed_directions(const AttentionPattern& pattern);  // those of evaluation, in every step
// Whether the segments of a token depend on it and on earlier tokens only.
bool is_causal(const AttentionPattern& pattern);
// Whether it is for models whose keys are their queries (shared_qk) only.
bool shares_keys(const AttentionPattern& pattern);
void validate(const AttentionPattern& pattern);  // throws Error naming the value and what would be right

// ---- those of the heads of a layer ----------------------------------------------------------------------------------
// For consecutive ranges of heads. One entry with heads = 0 is for all heads.
using HeadPatterns = std::vector<AttentionPattern>;

// `patterns` with `heads` filled in for each entry. Throws Error unless they add up to H.
HeadPatterns for_heads(HeadPatterns patterns, int64_t H);
// segment_count and relation_count: maxima over the entries. share_of_pairs: the mean over H heads.
int64_t segment_count(const HeadPatterns& patterns, int64_t T);
int64_t relation_count(const HeadPatterns& patterns);
bool is_causal(const HeadPatterns& patterns);  // whether all of them are
// Whether segments depend on positions alone, so that layers with the same patterns have the same.
bool is_fixed(const HeadPatterns& patterns);
double share_of_pairs(const HeadPatterns& patterns, int64_t H, int64_t T);
std::vector<Visibility> visibility(const HeadPatterns& patterns, int64_t relation);
// "4 heads dense, window 256 + 8 heads hash with 16 buckets". H = 0: not known; then the heads that no entry names are
// "other heads".
std::string describe(const HeadPatterns& patterns, int64_t H = 0);
void validate(const HeadPatterns& patterns, int64_t H);

}  // namespace scfa
