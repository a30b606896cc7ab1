#include "kernels/document_starts.h"

namespace scfa {

void document_starts(Context& ctx, Tensor starts, ConstTensor ids, int32_t end_of_text) {
  constexpr const char* kOp = "document_starts";
  require(ids.data && ids.ndim == 2, kOp, ": ids must be (B, T), not ", ids.data == nullptr ? "empty" : ids.describe());
  require(ids.size(1) < INT32_MAX, kOp, ": sequences of ", ids.size(1), " are too long");
  require_tensor(ids, kOp, "ids", DType::kI32, {ids.size(0), ids.size(1)});
  require_tensor(starts, kOp, "starts", DType::kI32, {ids.size(0), ids.size(1)});
  ctx.require_here(kOp, {starts, ids});
  if (ids.numel() == 0) return;
  const ProfileRange range(ctx, kOp, Category::kAttention);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::document_starts(ctx, starts, ids, end_of_text);
  cpu::document_starts(ctx, starts, ids, end_of_text);
}

namespace cpu {

void document_starts(Context& /*ctx*/, Tensor starts, ConstTensor ids, int32_t end_of_text) {
  const int64_t B = ids.size(0), T = ids.size(1);
#pragma omp parallel for
  for (int64_t b = 0; b < B; ++b) {
    const int32_t* id = ids.as<int32_t>() + b * T;
    int32_t* start = starts.as<int32_t>() + b * T;
    int32_t begin = 0;
    for (int64_t t = 0; t < T; ++t) {
      start[t] = begin;
      if (id[t] == end_of_text) begin = static_cast<int32_t>(t + 1);
    }
  }
}

}  // namespace cpu
}  // namespace scfa
