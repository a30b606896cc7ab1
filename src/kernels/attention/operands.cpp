#include "kernels/attention/operands.h"

#include <cmath>

#include "kernels/attention/attention.h"

namespace scfa {

namespace {

// Takes the tensors that hold q, k, v (or their gradients) and adds them to `holders`.
Heads take_heads(Arena& arena, const std::string& name, DType dtype, const AttentionProblem& problem,
                 std::vector<Tensor>& holders) {
  const auto [B, T, H, D, given] = problem.shape;
  const int64_t H_kv = problem.shape.kv_heads();
  const auto take = [&](std::initializer_list<int64_t> sizes) {
    holders.push_back(arena.take(name, dtype, sizes));
    return holders.back();
  };
  Heads heads;
  switch (problem.layout) {
    case AttentionLayout::kQkv:
      return {take({B, T, H + 2 * H_kv, D}), Tensor(), H, H_kv};
    case AttentionLayout::kQv:
    case AttentionLayout::kSharedQk: {
      const Tensor qv = take({B, T, H + H_kv, D});
      return {qv, take({B, T, H_kv, D}), H, H_kv};
    }
    case AttentionLayout::kSeparate:
      for (Tensor* part : {&heads.q, &heads.k, &heads.v}) *part = take({B, T, part == &heads.q ? H : H_kv, D});
      return heads;
    case AttentionLayout::kByHead:
      for (Tensor* part : {&heads.q, &heads.k, &heads.v})
        *part = take({B, part == &heads.q ? H : H_kv, T, D}).transpose(1, 2);
      return heads;
  }
  fail("attention: no such layout");
}

// The same for out or dout.
Tensor take_rows(Arena& arena, const char* name, DType dtype, const AttentionProblem& problem,
                 std::vector<Tensor>& holders) {
  const auto [B, T, H, D, H_kv] = problem.shape;
  const bool by_head = problem.layout == AttentionLayout::kByHead;
  require(!by_head || !problem.strided_out, "attention: out by head cannot be strided too");
  if (by_head)
    holders.push_back(arena.take(name, dtype, {B, H, T, D}));
  else if (problem.strided_out)
    holders.push_back(arena.take(name, dtype, {B, T, 3, H, D}));
  else
    holders.push_back(arena.take(name, dtype, {B, T, H, D}));
  const Tensor& holder = holders.back();
  return by_head ? holder.transpose(1, 2) : problem.strided_out ? holder.select(1, 2) : holder;
}

}  // namespace

AttentionOperands::AttentionOperands(Arena& arena, const Context& ctx, const AttentionProblem& p)
    : problem(p), scale(1.0f / std::sqrt(static_cast<float>(p.shape.D))) {
  const auto [B, T, H, D, given] = p.shape;
  const int64_t H_kv = p.shape.kv_heads();
  require(H_kv > 0 && H % H_kv == 0, "attention: the heads of keys and values must divide the ", H,
          " heads of queries, not be ", H_kv);
  require(p.layout != AttentionLayout::kSharedQk || H_kv == H,
          "attention: keys that are the queries have as many heads, ", H, ", not ", H_kv);
  const DType dtype = activation_type(ctx.device()), f32 = DType::kF32;
  const Heads heads = take_heads(arena, "q, k, v", dtype, p, inputs);
  q = heads.q, k = heads.k, v = heads.v;
  const Heads dheads = take_heads(arena, "dq, dk, dv", dtype, p, gradients);
  dq = dheads.q, dk = dheads.k, dv = dheads.v;
  if (p.layout == AttentionLayout::kSharedQk) {
    inputs.pop_back();
    inverse_norm = arena.take("inverse_norm", f32, {B, T, H});
  }
  dout = take_rows(arena, "dout", dtype, p, inputs);
  out = take_rows(arena, "out", dtype, p, outputs);
  lse = arena.take("lse", f32, {B, H, T});
  outputs.push_back(lse);
  samples = arena.take("samples", DType::kI32, {B});
  if (p.documents) document_start = arena.take("document_start", DType::kI32, {B, T});
  layer = LayerSegments::plan(arena, p.patterns, B, H, T, D, T, p.documents, p.segments, p.relations);
  scratch = arena.take("scratch", f32,
                       {std::max(attention_scratch(ctx, layer.relations, D, H_kv), layer.assign_scratch(ctx))});
}

void AttentionOperands::draw(Context& ctx, const PatternDraw& at) const {
  layer.draw(ctx, at.seed, at.step, at.layer);
}

void AttentionOperands::assign(Context& ctx, const PatternDraw& at) const {
  const bool shared = problem.layout == AttentionLayout::kSharedQk;
  const PatternInput input{.q = q,
                           .k = shared ? ConstTensor() : ConstTensor(k),
                           .projections = {},
                           .samples = samples,
                           .seed = at.seed,
                           .step = at.step,
                           .layer = at.layer,
                           .scratch = scratch};
  if (shared)
    layer.assign_and_normalise_keys(ctx, k, inverse_norm, input);
  else
    layer.assign(ctx, input);
}

void AttentionOperands::build(Context& ctx) const {
  layer.build(ctx, document_start);
}

void AttentionOperands::forward(Context& ctx) const {
  attention_forward(ctx, out, lse, q, k, v, layer.relations, scale, scratch);
}

void AttentionOperands::backward(Context& ctx) const {
  attention_backward(ctx, dq, dk, dv, dout, q, k, v, out, lse, layer.relations, scale, scratch, inverse_norm);
}

}  // namespace scfa
