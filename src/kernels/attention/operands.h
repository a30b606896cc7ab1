// The tensors of one attention layer (q, k, v, out, gradients, segments, scratch) and the ops on them, in order. For
// the benchmark and the tests, which run attention alone; a model plans these tensors with its other activations.
#pragma once
#include <vector>

#include "core/arena.h"
#include "core/context.h"
#include "kernels/attention/layer_attention.h"

namespace scfa {

struct AttentionShape {  // sequences, positions, heads, width of a head
  int64_t B, T, H, D;
  int64_t H_kv = 0;  // heads of keys and values; 0: H
  int64_t kv_heads() const { return H_kv > 0 ? H_kv : H; }
};

// Where q, k and v lie.
enum class AttentionLayout {
  kQkv,       // in one (B, T, H + 2 H_kv, D), as the GEMM that makes them leaves them
  kQv,        // q and v in one (B, T, H + H_kv, D), keys beside it in a (B, T, H_kv, D)
  kSharedQk,  // as kQv, H_kv = H; the keys are the normalised queries, and 1 / |q| is kept
  kSeparate,  // each in a (B, T, H, D); keys and values (B, T, H_kv, D)
  kByHead,    // each in a (B, H, T, D); keys and values (B, H_kv, T, D)
};

// Views of queries (B, T, H, D) and of keys and values (B, T, H_kv, D), or of their gradients.
struct Heads {
  Tensor q, k, v;
  Heads() = default;
  // Of a (B, T, H + 2 H_kv, D), or of a (B, T, H + H_kv, D) and the keys beside it.
  Heads(const Tensor& qkv, const Tensor& keys, int64_t H, int64_t kv_heads)
      : q(qkv.narrow(2, 0, H)),
        k(keys.ndim > 0 ? keys : qkv.narrow(2, H, kv_heads)),
        v(qkv.narrow(2, qkv.size(2) - kv_heads, kv_heads)) {}
};

struct AttentionProblem {
  AttentionShape shape;
  AttentionLayout layout = AttentionLayout::kQkv;
  HeadPatterns patterns = HeadPatterns(1);  // the patterns of the heads, with window, gap and attend_self
  // The least number of segments and relations; 0: as many as the patterns have. Otherwise the caller fills q_segment
  // and k_segment instead of calling assign. Relations beyond those of a head's pattern have no window and no gap.
  int64_t segments = 0, relations = 0;
  bool documents = false;    // the caller fills document_start
  bool strided_out = false;  // out and dout are part 1 of a (B, T, 3, H, D) each; not with kByHead
};

// What to draw projections and drops for.
struct PatternDraw {
  uint64_t seed = 1;
  uint32_t step = 0, layer = 0;
};

// Activations are bf16 on the GPU and f32 on the CPU. Contents are undefined until the caller fills inputs and samples
// (and projections, where it does not call draw).
struct AttentionOperands {
  AttentionProblem problem;
  float scale;  // of scores: 1 / sqrt(D)

  Tensor q, k, v, out, dq, dk, dv, dout;  // (B, T, H, D) views; of keys and values (B, T, H_kv, D)
  Tensor lse;                             // (B, H, T) f32
  Tensor inverse_norm;                    // (B, T, H) f32 with kSharedQk, else empty
  Tensor samples;                         // (B) i32
  Tensor document_start;                  // (B, T) i32 with documents, else empty
  LayerSegments layer;
  Tensor scratch;

  // The tensors that hold those views, contiguous, to be filled, poisoned or compared whole.
  std::vector<Tensor> inputs;     // of q, k, v in the order of the layout, then of dout; shared keys are not an input
  std::vector<Tensor> outputs;    // of out, and lse
  std::vector<Tensor> gradients;  // of dq, dk, dv in the order of the layout; with kSharedQk the second is dk

  // arena: one that measures will do for planning. Its device is the context's.
  AttentionOperands(Arena& arena, const Context& ctx, const AttentionProblem& problem);

  // All launch work and return without waiting: draw and assign up to one op per pattern, build one per relation.
  void draw(Context& ctx, const PatternDraw& at = {}) const;    // projections
  void assign(Context& ctx, const PatternDraw& at = {}) const;  // segments, and with kSharedQk the keys
  void build(Context& ctx) const;
  void forward(Context& ctx) const;
  void backward(Context& ctx) const;
};

}  // namespace scfa
