// Checkpoints: a folder checkpoint-STEP of a run with the parameters and the optimizer state in safetensors and the
// rest in JSON. Written to a temporary folder, synced, then renamed, so that one either is there whole or is not there.
//   model.safetensors      parameters, by name (docs/architecture.md)
//   optimizer.safetensors  first and second moments: "m.NAME", "v.NAME"
//   state.json             format, step, config, tokenizer, data, threads, device; size and XXH3-64 of the two files
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "model/gpt.h"
#include "train/config.h"
#include "train/optimizer.h"

namespace scfa {

struct CheckpointState {
  std::string path;  // of the checkpoint, when read
  int64_t step = 0;  // updates done
  Config config;
  std::string tokenizer;
  std::string data;  // fingerprint of the training tokens
  int64_t threads = 0;
  std::string device = "cpu";  // or the GPU's name
};

// Writes RUN/checkpoint-STEP and returns its path; replaces one of the same step. Then removes older ones but for the
// newest `keep` up to this step (0 keeps all); later ones, which resuming passed over, stay.
std::string save_checkpoint(const std::string& run, const CheckpointState& state, Gpt& model,
                            const Optimizer& optimizer);

enum class Verify { kModel, kAll };  // which files must be as they were written

// Checks sizes and checksums and returns the state. Throws Error naming the file at fault.
CheckpointState read_checkpoint_state(const std::string& checkpoint, Verify verify);

// The newest checkpoint of a run that is whole, if there is one. For each newer one that is not, a line saying why it
// was passed over is added to rejected.
std::optional<CheckpointState> newest_checkpoint(const std::string& run, Verify verify,
                                                 std::vector<std::string>* rejected);

// The state of path itself if it is a checkpoint, else of the newest whole one of the run it names, checked as far as
// generating needs. Throws Error if there is none.
CheckpointState find_checkpoint(const std::string& path);

// Fills the model, and the optimizer if there is one. Throws Error naming the tensor that does not fit.
void load_checkpoint(const std::string& checkpoint, Gpt& model, Optimizer* optimizer);

// Every checkpoint folder of a run, whole or not, and what saves that were killed left behind.
std::vector<std::string> checkpoint_folders(const std::string& run);

}  // namespace scfa
