// The interface between a pattern and the rest of the program, and the list of patterns.
#pragma once
#include <span>
#include <string>
#include <string_view>

#include "kernels/attention/patterns/assign.h"
#include "kernels/attention/patterns/pattern.h"

namespace scfa {

// Writes q_segment and k_segment of the pattern's own relations (not that of near), in the heads that `input` names.
using AssignSegments = void(Context& ctx, std::span<const Segments> relations, const AttentionPattern& pattern,
                            const PatternInput& input);
using AssignSegmentsAndNormaliseKeys = void(Context& ctx, const Segments& relation, Tensor keys, Tensor inverse_norm,
                                            const AttentionPattern& pattern, const PatternInput& input);

// Functions of a pattern's parameters; those that may be null have a default.
struct PatternDescriptor {
  const char* name;
  std::string_view parameters[6] = {};                            // those it uses besides window, near, attend_self
  bool attend_self;                                               // unless the config says otherwise
  bool causal;                                                    // the segments of a token depend on no later token
  bool fixed = false;                                             // segments depend on positions alone
  int64_t (*segments)(const AttentionPattern&, int64_t T);        // how many there are
  int64_t (*relations)(const AttentionPattern&) = nullptr;        // null: 1
  double (*share_of_pairs)(const AttentionPattern&, int64_t T);   // see pattern.h; without the window
  std::string (*describe)(const AttentionPattern&);               // without window and attend_self
  bool (*needs_projections)(const AttentionPattern&) = nullptr;   // null: no
  bool (*learns_bucket_bias)(const AttentionPattern&) = nullptr;  // null: no
  bool shares_keys = false;                                       // for models whose keys are their queries only
  bool reads_keys = false;  // with shared_qk, PatternInput::k holds the normalised keys and is not empty
  // Elements (f32) of PatternInput::state per sequence and head, for sequences of up to `positions`. Null or 0: no
  // state.
  int64_t (*state_elements)(const AttentionPattern&, int64_t positions, int64_t D) = nullptr;
  // f32 of scratch on the GPU. Null: none.
  int64_t (*scratch_elements)(const AttentionPattern&, int64_t B, int64_t heads, int64_t T) = nullptr;
  void (*validate)(const AttentionPattern&) = nullptr;  // throws Error naming the key; null: nothing to check
  AssignSegments* assign;
  AssignSegments* assign_gpu = nullptr;  // null: the pattern is for the CPU only
  // One kernel for both, for all heads and one relation, where the pattern needs projections; null: two kernels.
  AssignSegmentsAndNormaliseKeys* assign_and_normalise_gpu = nullptr;
};

// f, or null in a build without CUDA, where GPU implementations are declared but not defined.
template <auto* f>
constexpr auto gpu_implementation() -> decltype(f) {
  if constexpr (kCudaBuild)
    return f;
  else
    return nullptr;
}

// The list of patterns, in the order in which messages name them. Each is defined in a file of its name.
extern const PatternDescriptor kDensePattern, kHashPattern, kDropPattern, kReformerPattern, kBlocksPattern;
inline constexpr const PatternDescriptor* kPatterns[] = {&kDensePattern, &kHashPattern, &kDropPattern,
                                                         &kReformerPattern, &kBlocksPattern};

const PatternDescriptor& descriptor_of(const AttentionPattern& pattern);  // throws Error if there is none

}  // namespace scfa
