// Queries, keys and values that the layers of a trained model compute on text, to time attention on.
#pragma once
#include <string>
#include <vector>

#include "core/buffer.h"
#include "kernels/attention/operands.h"

namespace scfa {

struct TrainedInputs {
  AttentionShape shape;        // B as asked for, T the longest asked for, heads of the model
  AttentionLayout layout;      // kSharedQk or kQkv
  std::vector<Buffer> layers;  // each (B, T, H + 2 H_kv, D), or (B, T, 2 H, D) with kSharedQk, on the device
};

// checkpoint: a checkpoint, or a run (its newest), with the patterns it was trained with. data: a prepared set; empty:
// that of the checkpoint's config. The text is B windows of T tokens of the validation split, spread evenly. Throws
// Error naming what does not go together: a checkpoint or set that is not there, T beyond the model's context, a split
// with fewer than B windows, too little memory.
TrainedInputs trained_inputs(Context& ctx, const std::string& checkpoint, const std::string& data, int64_t B,
                             int64_t T);

}  // namespace scfa
