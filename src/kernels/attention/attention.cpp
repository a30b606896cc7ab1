#include "kernels/attention/attention.h"

#include <cstdlib>
#include <string_view>
#include <utility>

namespace scfa {

namespace {

void check_rows(const char* op, const char* name, const ConstTensor& t, const ConstTensor& q) {
  if (t.data == nullptr || t.ndim != 4 || t.stride[3] != 1 || !t.same_shape(q) || t.dtype != q.dtype)
    fail(op, ": ", name, " must be like q, ", q.describe(), ", not ", t.data == nullptr ? "empty" : t.describe());
  if (t.device == Device::kCpu) return;
  require(t.size(3) % 8 == 0 && t.size(3) <= 128, op,
          ": on the GPU the head dim must be a multiple of 8 up to 128, not ", t.size(3));
  bool aligned = reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
  for (size_t i = 0; i < 3; ++i) aligned = aligned && t.stride[i] % 8 == 0;
  require(aligned, op, ": on the GPU the rows of ", name, " must be aligned to 16 bytes");
}

void check_common(const char* op, Context& ctx, const ConstTensor& q, const ConstTensor& lse, const Segments& segments,
                  const Tensor& scratch) {
  const DType type = ctx.on_gpu() ? DType::kBF16 : DType::kF32;
  if (q.data == nullptr || q.ndim != 4 || q.dtype != type)
    fail(op, ": q must be (B, T, H, D) of ", name_of(type), " on the ", name_of(ctx.device()), ", not ",
         q.data == nullptr ? "empty" : q.describe());
  require_tensor(lse, op, "lse", DType::kF32, {q.size(0), q.size(2), q.size(1)});
  require(segments.q_index.has_shape({q.size(0), q.size(2), q.size(1)}), op, ": segments are of ",
          segments.q_index.describe(), " for q of ", q.describe());
  const int64_t needed = attention_scratch(ctx, segments, q.size(3));
  require(scratch.data && scratch.dtype == DType::kF32 && scratch.numel() >= needed, op, ": scratch must be ", needed,
          " elements of f32, not ", scratch.data == nullptr ? "empty" : scratch.describe());
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

int64_t attention_scratch(const Context& ctx, const Segments& segments, int64_t D) {
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::attention_scratch(ctx, segments, D);
  return cpu::attention_scratch(ctx, segments, D);
}

void attention_forward(Context& ctx, Tensor out, Tensor lse, ConstTensor q, ConstTensor k, ConstTensor v,
                       const Segments& segments, float scale, Tensor scratch) {
  constexpr const char* kOp = "attention_forward";
  check_common(kOp, ctx, q, lse, segments, scratch);
  check_rows(kOp, "q", q, q);
  check_rows(kOp, "k", k, q);
  check_rows(kOp, "v", v, q);
  check_rows(kOp, "out", out, q);
  ctx.require_here(kOp, {out, lse, q, k, v, segments.q_index, scratch});
  const ProfileRange range(ctx, kOp, Category::kAttention);
  if (q.numel() == 0) return;
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::attention_forward(ctx, out, lse, q, k, v, segments, scale, scratch);
  cpu::attention_forward(ctx, out, lse, q, k, v, segments, scale, scratch);
}

void attention_backward(Context& ctx, Tensor dq, Tensor dk, Tensor dv, ConstTensor dout, ConstTensor q, ConstTensor k,
                        ConstTensor v, ConstTensor out, ConstTensor lse, const Segments& segments, float scale,
                        Tensor scratch, ConstTensor inverse_norm) {
  constexpr const char* kOp = "attention_backward";
  check_common(kOp, ctx, q, lse, segments, scratch);
  check_rows(kOp, "q", q, q);
  check_rows(kOp, "k", k, q);
  check_rows(kOp, "v", v, q);
  check_rows(kOp, "out", out, q);
  check_rows(kOp, "dout", dout, q);
  check_rows(kOp, "dq", dq, q);
  check_rows(kOp, "dk", dk, q);
  check_rows(kOp, "dv", dv, q);
  if (inverse_norm) {
    require_tensor(inverse_norm, kOp, "inverse_norm", DType::kF32, {q.size(0), q.size(1), q.size(2)});
    for (const auto& [name, t] : {std::pair("k", k), std::pair<const char*, ConstTensor>("dk", dk)})
      require(t.contiguous(), kOp, ": with inverse_norm ", name, " must be contiguous, not ", t.describe());
  }
  ctx.require_here(kOp, {dq, dk, dv, dout, q, k, v, out, lse, segments.q_index, scratch, inverse_norm});
  const ProfileRange range(ctx, kOp, Category::kAttention);
  if (q.numel() == 0) return;
  if constexpr (kCudaBuild)
    if (ctx.on_gpu())
      return gpu::attention_backward(ctx, dq, dk, dv, dout, q, k, v, out, lse, segments, scale, scratch, inverse_norm);
  cpu::attention_backward(ctx, dq, dk, dv, dout, q, k, v, out, lse, segments, scale, scratch, inverse_norm);
}

}  // namespace scfa
