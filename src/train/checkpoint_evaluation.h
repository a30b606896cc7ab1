// Evaluates a checkpoint on a prepared set, with the patterns and the sequence length it was trained with or others:
// loss by position, share of dense attention that patterns keep (model/recall.h), and how much tokens far back lower
// the loss.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/manifest.h"
#include "model/recall.h"
#include "train/config.h"
#include "train/evaluate.h"

namespace scfa {

struct CheckpointEvaluationOptions {
  std::string checkpoint{};  // a checkpoint, or a run: its newest
  std::string data{};        // a prepared set; empty: the one that the checkpoint's config names
  Split split = Split::kVal;
  std::optional<int64_t> windows{};  // of T tokens, spread evenly; 0: all; by default eval.windows of the config
  // Sequences at a time; by default as many tokens as train.micro_batch_size of the config, at least one sequence.
  std::optional<int64_t> batch{};
  // Keys with their values, as of override_config: "attention", "attention.NAME" and, where positions are rotary,
  // "model.sequence_length" and "model.rotary_theta". What is not given stays as the checkpoint was trained.
  std::vector<std::pair<std::string, std::string>> overrides{};
  bool recall = false;
  int64_t short_context = 0;    // N, even, up to T; 0: without
  std::string device = "auto";  // as in a config
  // progress(share, what is computed and the time left), before each batch; may be empty.
  std::function<void(double, const std::string&)> progress{};
};

struct PositionRange {
  int64_t first = 0, last = 0;  // positions in the context
  LossSums sums;
};

// The same tokens with all of their context, and at the end of windows of N tokens.
struct ShortContextRange {
  int64_t first = 0, last = 0;
  LossSums full, truncated;
};

struct CheckpointEvaluation {
  std::string checkpoint;             // its path
  std::vector<std::string> warnings;  // of newer checkpoints of the run that are not whole
  int64_t step = 0;
  Config trained, config;    // as it was trained; as it is evaluated
  std::string data, device;  // the set's folder; the device's name
  Split split = Split::kVal;
  int64_t windows = 0, available = 0;
  Evaluation losses;                     // as training evaluates: on the same windows the same loss, to the bit
  std::vector<PositionRange> positions;  // 0-63, 64-127, 128-255, ...: together all tokens that count
  // Of a synthetic set: answers by how far back what they repeat stands (data/synthetic.h), in ranges 1,
  // 2-3, 4-7, ...
  std::vector<PositionRange> distances;
  // With recall:
  std::optional<LossSums> dense;                // with the dense attention that recall is measured on
  std::vector<std::vector<HeadRecall>> recall;  // by layer and head
  // With short_context N, ranges as above from position N / 2 on: windows of N tokens begin every N / 2 tokens, and the
  // second half of each counts. What no second half covers at the end of T is left out.
  std::vector<ShortContextRange> short_context;
  ShortContextRange short_context_total() const;
};

// Deterministic. Throws Error naming what does not go together: a checkpoint or a set that is not there or broken,
// another tokenizer, patterns or a length that the model cannot have, a split shorter than a window, too little memory;
// where the loss is not finite; Interrupted once a signal asked to stop.
CheckpointEvaluation evaluate_checkpoint(const CheckpointEvaluationOptions& options);

}  // namespace scfa
