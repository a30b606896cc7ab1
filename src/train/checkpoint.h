// Checkpoints: a folder checkpoint-STEP of a run with the parameters and the optimizer state in safetensors and the
// rest in JSON. Written to a temporary folder, synced, then renamed, so that one either is there whole or is not there.
//   model.safetensors      parameters, by name (docs/architecture.md)
//   optimizer.safetensors  first and second moments: "m.NAME", "v.NAME"
//   state.json             format, step, config, tokenizer, size and XXH3-64 of the two files
#pragma once
#include <string>
#include <vector>

#include "model/gpt.h"
#include "train/config.h"
#include "train/optimizer.h"

namespace scfa {

struct CheckpointState {
  int64_t step = 0;  // updates done
  Config config;
  std::string tokenizer;
  double seconds = 0;  // of training so far
};

// Writes RUN/checkpoint-STEP and returns its path; replaces one of the same step. Then removes all but the newest
// `keep` (0 keeps all).
std::string save_checkpoint(const std::string& run, const CheckpointState& state, const Gpt& model,
                            const Optimizer& optimizer);

// The newest checkpoint of a run that is whole, or "" if there is none. For each newer one that is not, a line saying
// why it was passed over is added to rejected.
std::string newest_checkpoint(const std::string& run, std::vector<std::string>* rejected);

// Checks sizes and checksums and returns the state. Throws Error naming the file at fault.
CheckpointState read_checkpoint_state(const std::string& checkpoint);

// Fills the model, and the optimizer if there is one. Throws Error naming the tensor that does not fit.
void load_checkpoint(const std::string& checkpoint, Gpt& model, Optimizer* optimizer);

// path itself if it is a checkpoint, else the newest whole one of the run it names. Throws Error if there is none.
std::string find_checkpoint(const std::string& path);

}  // namespace scfa
