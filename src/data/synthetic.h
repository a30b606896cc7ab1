// Synthetic recall tasks: sequences that ask for a value that appeared earlier in them, to measure from how far back a
// model recalls it. Only the tokens of the answers count in the loss.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/set_writer.h"

namespace scfa {

// In all tasks a key stands before a value of some tokens, then filler, and later the key again, with the value as the
// answer. Keys, values and filler have a third of the vocabulary each; the last entry ends a sequence.
enum class SyntheticTask : uint8_t {
  kMqar,       // several keys, all different, each asked for once: multi-query associative recall (arXiv:2312.04927)
  kInduction,  // one key, the same in all sequences: what stood behind it? (arXiv:2209.11895)
  kNeedle,     // several keys, one of which is asked for at the end
};

// "mqar", "induction" or "needle". Throws Error naming them.
SyntheticTask parse_synthetic_task(const std::string& name);

struct SyntheticOptions {
  SyntheticTask task = SyntheticTask::kMqar;
  SetOptions set;         // val_fraction is not used
  int64_t length = 1024;  // tokens of a sequence
  int64_t sequences = 20000, val_sequences = 512;
  int64_t pairs = 8;                           // keys of a sequence; 1 for induction
  int64_t value_length = 1;                    // tokens
  int64_t vocabulary = 8192;                   // entries, up to 32768
  int64_t min_distance = 0, max_distance = 0;  // from key to key; 0: as short or as long as there is room for
};

// The tokens of a sequence, a function of (options, number) alone. Validation has numbers of its own. Distances are
// log-uniform, so that each power of two has about as many answers as any other.
//   counts  out, one for each token: whether it is of an answer
void make_synthetic_sequence(const SyntheticOptions& options, Split split, int64_t number,
                             std::vector<uint32_t>& tokens, std::vector<bool>& counts);

// Writes the set. Throws Error for options that do not go together before anything is written. progress(sequences done,
// of all) may be empty.
Manifest write_synthetic_set(const SyntheticOptions& options,
                             const std::function<void(int64_t, int64_t)>& progress = {});

// For each of T targets that counts, how far before the key that asks for it the same key stood; 0 for all others.
// inputs, targets: as the loader gives them.
std::vector<int64_t> answer_distances(const int32_t* inputs, const int32_t* targets, int64_t T);

}  // namespace scfa
