// What forward keeps for backward, and the scratch both need: planned once, by name, from one arena.
#pragma once
#include <vector>

#include "core/arena.h"
#include "kernels/attention/operands.h"
#include "model/bucket_biases.h"
#include "model/config.h"
#include "model/fp8.h"

namespace scfa {

// What forward does not keep for backward, which computes it again: the outputs of GELU, those of layer norms too, or
// all of a block but its input, its segments and its attention's output. Gradients are the same to the bit.
enum class Recompute { kNone, kGelu, kNorms, kBlock };
inline constexpr Recompute kRecomputes[] = {Recompute::kNone, Recompute::kGelu, Recompute::kNorms, Recompute::kBlock};

// What GEMMs of a pass with gradients are computed in: the device's own type, f32 on a CPU and bf16 on a GPU, or
// some of them in fp8 (model/fp8.h).
enum class Precision { kDefault, kFp8 };

// B sequences of T tokens, width C, H heads of D, H_kv of keys and values; gradients carry a d. f32 on the CPU; bf16 on
// the GPU, except means, rstds, inverse_norm, lse, losses, correct and scratch, which are f32. Each tensor is written
// once per forward pass; what is computed again is in the same memory for all blocks.
struct BlockActivations {
  Tensor residual_in;                 // (B, T, C) the residual stream that enters the block
  Tensor ln_1, ln_1_mean, ln_1_rstd;  // (B, T, C), (B, T), (B, T)
  Tensor qkv;                         // (B, T, H + 2 H_kv, D): q, k unless shared, v
  Tensor shared_keys, inverse_norm;   // (B, T, H, D), (B, T, H): where keys are normalised queries
  LayerSegments segments;
  Tensor attention, lse;  // (B, T, C), (B, H, T)
  Tensor residual_mid;    // (B, T, C) after attention
  Tensor ln_2, ln_2_mean, ln_2_rstd;
  Tensor fc, gelu;  // (B, T, 4C) the input of GELU, without the bias; the output of GELU
};

struct Activations {
  std::vector<BlockActivations> blocks;
  Fp8Activations fp8;
  Tensor document_start;                // (B, T) i32 where documents are kept apart, else empty
  Tensor residual_out;                  // (B, T, C) after the last block
  Tensor hidden, ln_f_mean, ln_f_rstd;  // (B, T, C) what the head reads
  Tensor logits;                        // (chunk, padded vocab): tokens go through the head a chunk at a time
  Tensor losses, correct;               // (B * T)
  Tensor loss_sums;                     // (3) f64: losses, correct, tokens that count, since they were last zeroed
  // Scratch shared by all layers.
  Tensor branch;  // (B, T, C) output of attention or MLP before it joins the residual stream
  Tensor attention_scratch;
  // Training only.
  Tensor dresidual, dbranch;       // (B, T, C) gradient of the residual stream; of a branch's input or output
  Tensor dqkv, dshared_keys, dfc;  // like qkv, shared_keys, fc
  Tensor layernorm_scratch, embedding_scratch;
};

Activations plan_activations(Arena& arena, const Context& ctx, const GptConfig& config, int64_t B, int64_t T,
                             bool training, Recompute recompute = Recompute::kNone,
                             Precision precision = Precision::kDefault);

// Gives the segments the biases of their buckets, and their loads unless these are empty.
void attach_bucket_biases(Activations& activations, const GptConfig& config, const BucketBiasTable& table,
                          Tensor biases, Tensor loads = {});

// A (B, T, C) tensor as (B, T, H, D).
inline Tensor as_heads(const Tensor& x, int64_t H) {
  return x.reshape({x.size(0), x.size(1), H, x.size(2) / H});
}

// Of qkv and shared_keys, or of their gradients.
inline Heads heads_of(const GptConfig& c, const Tensor& qkv, const Tensor& shared_keys) {
  return {qkv, shared_keys, c.n_head, c.kv_heads()};
}

}  // namespace scfa
