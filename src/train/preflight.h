// What is checked before a run takes memory or touches its folder.
#pragma once
#include <string>
#include <vector>

#include "core/arena.h"
#include "data/token_file.h"
#include "model/activations.h"
#include "train/checkpoint.h"
#include "train/config.h"
#include "train/console.h"

namespace scfa {

// Opens a split of the config's data; where there is none, the error says which command makes it.
TokenSet open_split(const Config& config, Split split);

// The config with the vocabulary that the data decides filled in, and everything checked.
// device: what it will run on.
Config complete(Config config, const TokenSet& set, Device device);

// none, gelu, norms or block; throws Error for others.
Recompute recompute_of(const std::string& name);

// fp8 or the device's own.
Precision precision_of(const TrainConfig& config);
// Throws Error if the device or the sizes of the model do not allow the precision that the config asks for.
void check_precision(const Context& ctx, const Config& config);

int64_t total_bytes(const std::vector<Arena::Item>& items);  // of a memory plan

// Bytes by name that training takes on the device: of the last rank, which has the largest part.
std::vector<Arena::Item> training_memory_plan(const Context& ctx, const Config& config, int64_t micro_batch, int ranks,
                                              Recompute recompute);

// Prints the memory plan of a rank by name, and returns what train.recompute says, or with auto the first that fits.
// Throws Error if it does not fit, with the micro-batch or the recomputation that would.
Recompute check_memory(const Context& ctx, const Config& config, int ranks, Console& console);

// FLOPs per token, the expected time of a step if the device is one that we know, and the largest micro-batch that this
// rank could compute.
std::string describe_limits(const Context& ctx, const Config& config, int ranks, Recompute recompute);

// Throws Error, naming the key, unless the windows of a synthetic set are its sequences.
void check_sequences(const Config& config, const TokenSet& set);

// Compares the checksums of both splits with their manifest, unless data.verify is false, and says what was done.
// Throws Error naming a shard that is not as it was written, or if the splits are not of one set.
void verify_data(const Config& config, const TokenSet& train_set, const TokenSet& val_set, Console& console);

// One number for the training tokens of a set, from the checksums of its shards.
std::string data_fingerprint(const TokenSet& set);

// Throws Error unless the set's tokens are of the checkpoint's tokenizer.
void check_tokenizer(const CheckpointState& state, const TokenSet& set);

// Whether a run may begin with the parameters of a checkpoint (train.init_from). Throws Error if that is of a model
// with other parameters, or of another tokenizer; says what else of the model and its attention differs.
void check_initial_parameters(const CheckpointState& state, const Config& config, const TokenSet& set,
                              Console& console);

// Whether config may go on from a checkpoint. Throws Error if that is of another model or tokenizer; warns of whatever
// else makes the run differ from an uninterrupted one.
void check_resumable(const CheckpointState& state, const Config& config, const TokenSet& set, const std::string& device,
                     int ranks, Console& console);

}  // namespace scfa
