#include "kernels/embedding.h"

#include <algorithm>

namespace scfa {

void embedding_forward(Context& ctx, Tensor x, ConstTensor ids, ConstTensor wte, ConstTensor wpe,
                       int64_t first_position) {
  constexpr const char* kOp = "embedding_forward";
  require(ids.ndim == 2 && wte.ndim == 2, kOp, ": ids must be (B, T) and wte (V, C)");
  const int64_t B = ids.size(0), T = ids.size(1), C = wte.size(1);
  require_tensor(ids, kOp, "ids", DType::kI32, {B, T});
  require_tensor(wte, kOp, "wte", wte.dtype, {wte.size(0), C});
  require_tensor(x, kOp, "x", wte.dtype, {B, T, C});
  if (wpe) {
    require(wpe.ndim == 2 && wpe.contiguous() && wpe.size(1) == C, kOp, ": wpe must be contiguous (S, ", C, "), not ",
            wpe.describe());
    require(first_position >= 0 && first_position + T <= wpe.size(0), kOp, ": positions up to ", first_position + T,
            " do not fit the ", wpe.size(0), " learned ones");
  }
  require_activation(ctx, kOp, "wte", wte);
  require_activation(ctx, kOp, "wpe", wpe);
  ctx.require_here(kOp, {x, ids, wte, wpe});
  if (x.numel() == 0) return;
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::embedding_forward(ctx, x, ids, wte, wpe, first_position);
  cpu::embedding_forward(ctx, x, ids, wte, wpe, first_position);
}

int64_t embedding_backward_scratch(const Context& ctx, int64_t N, int64_t C) {
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::embedding_backward_scratch(ctx, N, C);
  return 0;
}

void embedding_backward(Context& ctx, Tensor dwte, Tensor dwpe, ConstTensor dx, ConstTensor ids, Tensor scratch) {
  constexpr const char* kOp = "embedding_backward";
  require(ids.ndim == 2 && dwte.ndim == 2, kOp, ": ids must be (B, T) and dwte (V, C)");
  const int64_t B = ids.size(0), T = ids.size(1), C = dwte.size(1);
  require_tensor(ids, kOp, "ids", DType::kI32, {B, T});
  require_tensor(dwte, kOp, "dwte", DType::kF32, {dwte.size(0), C});
  require_tensor(dx, kOp, "dx", dx.dtype, {B, T, C});
  if (dwpe)
    require(dwpe.ndim == 2 && dwpe.contiguous() && dwpe.size(1) == C && dwpe.size(0) >= T, kOp,
            ": dwpe must be contiguous (S, ", C, ") with S >= ", T, ", not ", dwpe.describe());
  require_activation(ctx, kOp, "dx", dx);
  if (dx.numel() == 0) return;
  const int64_t needed = embedding_backward_scratch(ctx, B * T, C);
  require(needed == 0 || (scratch && scratch.dtype == DType::kF32 && scratch.numel() >= needed), kOp,
          ": scratch must be ", needed, " elements of f32");
  ctx.require_here(kOp, {dwte, dwpe, dx, ids, scratch});
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::embedding_backward(ctx, dwte, dwpe, dx, ids, scratch);
  cpu::embedding_backward(ctx, dwte, dwpe, dx, ids, scratch);
}

namespace cpu {

void embedding_forward(Context& /*ctx*/, Tensor x, ConstTensor ids, ConstTensor wte, ConstTensor wpe,
                       int64_t first_position) {
  const int64_t B = ids.size(0), T = ids.size(1), C = wte.size(1), V = wte.size(0);
  const int32_t* id = ids.as<int32_t>();
  for (int64_t i = 0; i < B * T; ++i)
    require(id[i] >= 0 && id[i] < V, "embedding_forward: token ", id[i], " is outside the vocabulary of ", V);
  const float* token = wte.as<float>();
  const float* position = wpe ? wpe.as<float>() : nullptr;
  float* out = x.as<float>();
#pragma omp parallel for
  for (int64_t i = 0; i < B * T; ++i) {
    const float* a = token + id[i] * C;
    const float* p = position ? position + (first_position + i % T) * C : nullptr;
    for (int64_t c = 0; c < C; ++c) out[i * C + c] = a[c] + (p ? p[c] : 0.0f);
  }
}

void embedding_backward(Context& /*ctx*/, Tensor dwte, Tensor dwpe, ConstTensor dx, ConstTensor ids,
                        Tensor /*scratch*/) {
  const int64_t B = ids.size(0), T = ids.size(1), C = dwte.size(1);
  const int32_t* id = ids.as<int32_t>();
  const float* g = dx.as<float>();
  float* token = dwte.as<float>();
  float* position = dwpe ? dwpe.as<float>() : nullptr;
  constexpr int64_t kColumns = 64;  // a thread owns columns of both tables: no two threads meet, the order is fixed
#pragma omp parallel for
  for (int64_t c0 = 0; c0 < C; c0 += kColumns) {
    const int64_t c1 = std::min(c0 + kColumns, C);
    for (int64_t i = 0; i < B * T; ++i)
      for (int64_t c = c0; c < c1; ++c) {
        token[id[i] * C + c] += g[i * C + c];
        if (position) position[(i % T) * C + c] += g[i * C + c];
      }
  }
}

}  // namespace cpu
}  // namespace scfa
