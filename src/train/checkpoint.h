// Checkpoints: a folder checkpoint-STEP of a run with the parameters and the optimizer state in safetensors and the
// rest in JSON. Written to a temporary folder, synced, then renamed, so that one either is there whole or is not there.
//   model.safetensors      parameters, by name (docs/architecture.md), and biases of buckets where some are learned
//   optimizer.safetensors  first and second moments: "m.NAME", "v.NAME"
//   state.json             format, step, tokens, validation loss, config, tokenizer, data, threads, device, algorithms
//                          of GEMMs
//   checkpoint.xxh3        sizes and checksums of the three (train/checkpoint_files.h)
// Of format 1, which is still read, state.json has no checksum and holds those of the other two.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "train/config.h"
#include "train/host_state.h"

namespace scfa {

struct CheckpointState {
  std::string path;                       // of the checkpoint, when read
  int64_t step = 0;                       // updates done
  int64_t tokens = 0;                     // trained on so far
  std::optional<double> validation_loss;  // after this step, if it was evaluated
  Config config;
  std::string tokenizer;
  std::string data;                    // fingerprint of the training tokens
  int64_t threads = 0;                 // of a rank
  std::string device = "cpu";          // or the GPU's name
  int ranks = 1;                       // that trained it; any number can go on
  std::string gemms;                   // algorithms of its GEMMs, as in AutotunedGemms; empty: none were chosen
  std::vector<std::string> skipped{};  // find_checkpoint: a line for each newer one of the run that is not whole
};

// Writes RUN/checkpoint-STEP and returns its path; replaces one of the same step. If that holds what no save wrote, it
// is moved aside whole, and a line saying where is added to notes, if there are any.
std::string save_checkpoint(const std::string& run, const CheckpointState& state, const ParameterTable& table,
                            const HostState& host_state, std::vector<std::string>* notes = nullptr);

// Removes the checkpoints of a run up to step `newest` but for the newest `keep` (0 keeps all) and, with keep_best, the
// one of the lowest validation loss; and what saves that were killed left. Later ones, which resuming passed over,
// stay, and so do files that no save wrote: returns a line for each that kept a folder in place. Throws nothing.
std::vector<std::string> remove_old_checkpoints(const std::string& run, int64_t newest, const CheckpointConfig& config);

// Removes all checkpoints of a run, whole or not, and returns lines as remove_old_checkpoints does.
std::vector<std::string> remove_all_checkpoints(const std::string& run);

enum class Verify { kState, kModel, kAll };  // which files, beside state.json, must be as they were written

// Checks sizes and checksums and returns the state. Throws Error naming the file at fault.
CheckpointState read_checkpoint_state(const std::string& checkpoint, Verify verify);

// The newest checkpoint of a run that is whole, if there is one. For each newer one that is not, a line saying why it
// was passed over is added to rejected.
std::optional<CheckpointState> newest_checkpoint(const std::string& run, Verify verify,
                                                 std::vector<std::string>* rejected);

// Whether path is a checkpoint's folder, whole or not, and not a run's.
bool is_checkpoint_folder(const std::string& path);

// Fills what host_state has room for; biases of buckets of other patterns are passed over. Throws Error naming the
// tensor that does not fit.
void read_checkpoint(const std::string& checkpoint, const ParameterTable& table, const HostState& host_state);

// The same of the parameters alone. Biases of buckets that the checkpoint does not have become 0; without bucket_biases
// all of them do.
void read_parameters(const std::string& checkpoint, const ParameterTable& table, const HostState& host_state,
                     bool bucket_biases);

// Fills the parameters of a store that is not sharded, and its moments if it has any.
void load_checkpoint(const std::string& checkpoint, ParameterStore& store);

// Every checkpoint folder of a run, whole or not, and what saves that were killed left behind.
std::vector<std::string> checkpoint_folders(const std::string& run);

}  // namespace scfa
