#include "kernels/attention/attention.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "kernels/attention/head_groups.h"
#include "kernels/attention/normalise.h"

namespace scfa {

namespace {

void check_layout(const char* op, const char* name, const ConstTensor& t) {
  if (t.device == Device::kCpu) return;
  require(t.size(3) % 8 == 0 && t.size(3) <= 128, op,
          ": on the GPU the head dim must be a multiple of 8 up to 128, not ", t.size(3));
  bool aligned = reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
  for (size_t i = 0; i < 3; ++i) aligned = aligned && t.stride[i] % 8 == 0;
  require(aligned, op, ": on the GPU the rows of ", name, " must be aligned to 16 bytes");
}

void check_rows(const char* op, const char* name, const ConstTensor& t, const ConstTensor& like,
                const char* like_name = "q") {
  if (t.data == nullptr || t.ndim != 4 || t.stride[3] != 1 || !t.same_shape(like) || t.dtype != like.dtype)
    fail(op, ": ", name, " must be like ", like_name, ", ", like.describe(), ", not ",
         t.data == nullptr ? "empty" : t.describe());
  check_layout(op, name, t);
}

// k or v, which may have fewer heads than q.
void check_kv_rows(const char* op, const char* name, const ConstTensor& t, const ConstTensor& q) {
  const bool like_q = t.data != nullptr && t.ndim == 4 && t.stride[3] == 1 && t.dtype == q.dtype &&
                      t.size(0) == q.size(0) && t.size(1) == q.size(1) && t.size(3) == q.size(3);
  if (!like_q || t.size(2) == 0 || q.size(2) % t.size(2) != 0)
    fail(op, ": ", name, " must be like q, ", q.describe(), ", but for heads, of which it has a divisor of ", q.size(2),
         ", not ", t.data == nullptr ? "empty" : t.describe());
  check_layout(op, name, t);
}

// q, k, v and what goes with them.
void check_common(const char* op, Context& ctx, const ConstTensor& q, const ConstTensor& k, const ConstTensor& v,
                  const ConstTensor& lse, std::span<const Segments> relations, const Tensor& scratch) {
  const DType type = ctx.on_gpu() ? DType::kBF16 : DType::kF32;
  if (q.data == nullptr || q.ndim != 4 || q.dtype != type)
    fail(op, ": q must be (B, T, H, D) of ", name_of(type), " on the ", name_of(ctx.device()), ", not ",
         q.data == nullptr ? "empty" : q.describe());
  check_rows(op, "q", q, q);
  check_kv_rows(op, "k", k, q);
  check_rows(op, "v", v, k, "k");
  require_tensor(lse, op, "lse", DType::kF32, {q.size(0), q.size(2), q.size(1)});
  require(!relations.empty(), op, ": there must be a relation");
  for (const Segments& segments : relations) {
    require(segments.q_index.has_shape({q.size(0), q.size(2), q.size(1)}), op, ": segments are of ",
            segments.q_index.describe(), " for q of ", q.describe());
    ctx.require_here(op, {segments.q_index});
  }
  const int64_t needed = attention_scratch(ctx, relations, q.size(3), k.size(2));
  require(scratch.data && scratch.dtype == DType::kF32 && scratch.numel() >= needed, op, ": scratch must be ", needed,
          " elements of f32, not ", scratch.data == nullptr ? "empty" : scratch.describe());
}

// ---- one relation ---------------------------------------------------------------------------------------------------

int64_t scratch_of(const Context& ctx, const Segments& segments, int64_t D) {
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::attention_scratch(ctx, segments, D);
  return cpu::attention_scratch(ctx, segments, D);
}

AttentionForward& select_forward(const Context& ctx) {
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::attention_forward;
  return cpu::attention_forward;
}

AttentionBackward& select_backward(const Context& ctx) {
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::attention_backward;
  return cpu::attention_backward;
}

// ---- several --------------------------------------------------------------------------------------------------------
// Scratch, in f32 elements: what one relation needs, then in backward of grouped heads dk and dv of every query head.

constexpr int64_t kAlignment = 64;  // elements: 256 bytes

int64_t aligned(int64_t elements) {
  return (elements + kAlignment - 1) / kAlignment * kAlignment;
}

bool is_grouped(int64_t kv_heads, int64_t heads) {
  return kv_heads > 0 && kv_heads < heads;
}

int64_t one_relation_scratch(const Context& ctx, std::span<const Segments> relations, int64_t D) {
  int64_t most = 0;
  for (const Segments& segments : relations) most = std::max(most, scratch_of(ctx, segments, D));
  return most;
}

// Of one (B, T, H, D) tensor in the scratch.
int64_t head_gradient_elements(const Context& ctx, std::span<const Segments> relations, int64_t D) {
  const int64_t element = ctx.on_gpu() ? 2 : 4;
  return aligned((relations[0].q_segment.numel() * D * element + 3) / 4);
}

// normalise_keys_backward, as a part of attention_backward.
void add_norm_gradient(Context& ctx, const Tensor& dq, const Tensor& dk, const ConstTensor& k,
                       const ConstTensor& inverse_norm) {
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::normalise_keys_backward(ctx, dq, dk, k, inverse_norm);
  cpu::normalise_keys_backward(ctx, dq, dk, k, inverse_norm);
}

bool& portable() {
  static bool on = [] {
    const char* wanted = std::getenv("SCFA_ATTENTION");
    return wanted != nullptr && std::string_view(wanted) == "portable";
  }();
  return on;
}

}  // namespace

void use_portable_attention(bool on) {
  portable() = on;
}
bool uses_portable_attention() {
  return portable();
}

std::string describe_attention(const Context& ctx) {
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::describe_attention(ctx);
  return "attention on the CPU: BLAS over gathered rows";
}

int64_t attention_scratch(const Context& ctx, std::span<const Segments> relations, int64_t D, int64_t kv_heads) {
  const int64_t one = one_relation_scratch(ctx, relations, D);
  if (!is_grouped(kv_heads, relations[0].q_segment.size(1))) return one;
  return aligned(one) + 2 * head_gradient_elements(ctx, relations, D);
}

void attention_forward(Context& ctx, Tensor out, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                       std::span<const Segments> relations, float scale, Tensor scratch) {
  constexpr const char* kOp = "attention_forward";
  check_common(kOp, ctx, q, k, v, lse, relations, scratch);
  check_rows(kOp, "out", out, q);
  ctx.require_here(kOp, {out, lse, q, k, v, scratch});
  const ProfileRange range(ctx, kOp, Category::kAttention);
  if (q.numel() == 0) return;
  AttentionForward& forward = select_forward(ctx);
  for (const Segments& segments : relations)
    forward(ctx, out, lse, q, k, v, segments, scale, scratch, &segments != relations.data());
}

void attention_backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dout, ConstTensor q, ConstTensor k,
                        ConstTensor v, ConstTensor out, ConstTensor lse, std::span<const Segments> relations,
                        float scale, Tensor scratch, ConstTensor inverse_norm) {
  constexpr const char* kOp = "attention_backward";
  check_common(kOp, ctx, q, k, v, lse, relations, scratch);
  check_rows(kOp, "out", out, q);
  check_rows(kOp, "dout", dout, q);
  check_rows(kOp, "dq", dq, q);
  check_rows(kOp, "dk", dk, k, "k");
  check_rows(kOp, "dv", dv, k, "k");
  if (inverse_norm) {
    require(k.size(2) == q.size(2), kOp, ": with inverse_norm k must have as many heads as q, ", q.size(2), ", not ",
            k.size(2));
    require_tensor(inverse_norm, kOp, "inverse_norm", DType::kF32, {q.size(0), q.size(1), q.size(2)});
    for (const auto& [name, t] : {std::pair("k", k), std::pair<const char*, ConstTensor>("dk", dk)})
      require(t.contiguous(), kOp, ": with inverse_norm ", name, " must be contiguous, not ", t.describe());
  }
  ctx.require_here(kOp, {dq, dk, dv, dout, q, k, v, out, lse, scratch, inverse_norm});
  const ProfileRange range(ctx, kOp, Category::kAttention);
  if (q.numel() == 0) return;
  AttentionBackward& backward = select_backward(ctx);
  const bool several = relations.size() > 1;  // the gradient through the norms is then that of the whole dk
  const bool grouped = is_grouped(k.size(2), q.size(2));
  Tensor head_dk = dk, head_dv = dv;
  if (grouped) {
    float* space = scratch.as<float>() + aligned(one_relation_scratch(ctx, relations, q.size(3)));
    const auto take = [&](int64_t i) {
      return Tensor(space + i * head_gradient_elements(ctx, relations, q.size(3)), q.dtype, q.device,
                    {q.size(0), q.size(1), q.size(2), q.size(3)});
    };
    head_dk = take(0), head_dv = take(1);
  }
  for (const Segments& segments : relations)
    backward(ctx, dq, head_dk, head_dv, dout, q, k, v, out, lse, segments, scale, scratch,
             several ? ConstTensor() : inverse_norm, &segments != relations.data());
  if (grouped) {
    sum_head_groups(ctx, dk, head_dk);
    sum_head_groups(ctx, dv, head_dv);
  }
  if (several && inverse_norm) add_norm_gradient(ctx, dq, dk, k, inverse_norm);
}

}  // namespace scfa
