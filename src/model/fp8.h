// What training in fp8 keeps beside the activations: weights and the inputs of GEMMs in 8-bit floating point.
//
// A GEMM runs in fp8 where the op before it can write the input in 8 bits at almost no cost. Forward: the GEMMs after a
// layer norm or GELU, and the output head. Backward: the input gradients of the MLP. Weight gradients, attention and
// its output projection, and activations kept for backward stay in bf16 (f32 on a CPU). Only passes with gradients use
// fp8; evaluation and generation do not.
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
