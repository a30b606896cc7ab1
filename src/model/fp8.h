// What training in fp8 keeps beside the activations: weights and the inputs of GEMMs in 8-bit floating point.
//
// In fp8 are the GEMMs whose input is written in 8 bits by the op before, at next to no cost: forward, those behind
// a layer norm or GELU, and the head; backward, the gradients of the MLP's inputs. Gradients of weights, attention and
// its projection, and all that is kept for the backward pass stay as they are. Only passes with gradients use it:
// evaluation and generation compute as they would without.
#pragma once
#include <vector>

#include "core/arena.h"
#include "core/context.h"
#include "kernels/scaled_tensor.h"
#include "model/config.h"
#include "model/params.h"

namespace scfa {

// Sizes as in BlockActivations.
struct BlockFp8 {
  // Weights as they were when quantise_weights was called; ..._t: transposed.
  ScaledTensor attn_weight, fc_weight, fc_weight_t, mlp_proj_weight, mlp_proj_weight_t;
  // Values in memory that all blocks share, the scales of forward's from quantise_weights.
  ScaledTensor ln_1, ln_2, gelu;      // e4m3
  ScaledTensor dresidual, dpre_gelu;  // e5m2: gradients of the block's output and of GELU's input
};

struct Fp8Activations {
  std::vector<BlockFp8> blocks;  // empty: nothing is in fp8
  ScaledTensor hidden, head_weight;
};

// Whether micro-batches of so many tokens can be computed.
inline bool fp8_takes(int64_t tokens) {
  return tokens % 16 == 0;
}

// Throws Error, naming the key, if sizes do not allow it. tokens: of a micro-batch.
void validate_fp8(const GptConfig& config, int64_t tokens);

Fp8Activations plan_fp8(Arena& arena, const GptConfig& config, int64_t B, int64_t T);

void quantise_weights(Context& ctx, const BlockFp8& fp8, const BlockParams& p);
void quantise_head(Context& ctx, const Fp8Activations& fp8, const GptParams& p);

}  // namespace scfa
