#include "kernels/attention/patterns/bucket_bias.h"

#include <algorithm>
#include <cmath>

namespace scfa {

void add_bucket_loads(Context& ctx, Tensor loads, ConstTensor begin, int64_t first_head) {
  constexpr const char* kOp = "add_bucket_loads";
  require(loads.data && loads.ndim == 2 && loads.contiguous() && loads.dtype == DType::kF64, kOp,
          ": loads must be (heads, buckets) f64, not ", loads.data == nullptr ? "empty" : loads.describe());
  require(begin.data && begin.ndim == 3 && begin.contiguous() && begin.dtype == DType::kI32 &&
              begin.size(1) >= first_head + loads.size(0) && begin.size(2) > loads.size(1),
          kOp, ": begin must be (B, H, S + 1) i32 for ", loads.describe(), ", not ",
          begin.data == nullptr ? "empty" : begin.describe());
  ctx.require_here(kOp, {loads, begin});
  const ProfileRange range(ctx, kOp, Category::kAttention);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::add_bucket_loads(ctx, loads, begin, first_head);
  cpu::add_bucket_loads(ctx, loads, begin, first_head);
}

void update_bucket_bias(Context& ctx, Tensor bias, ConstTensor loads, float rate) {
  constexpr const char* kOp = "update_bucket_bias";
  require(bias.data && bias.ndim == 2 && bias.size(1) >= 1 && bias.size(1) <= 64, kOp,
          ": bias must be (rows, up to 64 buckets), not ", bias.data == nullptr ? "empty" : bias.describe());
  require_tensor(bias, kOp, "bias", DType::kF32, {bias.size(0), bias.size(1)});
  require_tensor(loads, kOp, "loads", DType::kF64, {bias.size(0), bias.size(1)});
  ctx.require_here(kOp, {bias, loads});
  const ProfileRange range(ctx, kOp, Category::kOptimizer);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::update_bucket_bias(ctx, bias, loads, rate);
  cpu::update_bucket_bias(ctx, bias, loads, rate);
}

namespace cpu {

void add_bucket_loads(Context& /*ctx*/, Tensor loads, ConstTensor begin, int64_t first_head) {
  const int64_t buckets = loads.size(1), entries = begin.size(2);
  for (int64_t b = 0; b < begin.size(0); ++b)
    for (int64_t i = 0; i < loads.size(0); ++i) {
      const int32_t* of_head = begin.as<int32_t>() + (b * begin.size(1) + first_head + i) * entries;
      for (int64_t s = 0; s < buckets; ++s) loads.as<double>()[i * buckets + s] += of_head[s + 1] - of_head[s];
    }
}

void update_bucket_bias(Context& /*ctx*/, Tensor bias, ConstTensor loads, float rate) {
  const int64_t buckets = bias.size(1);
  for (int64_t row = 0; row < bias.size(0); ++row) {
    float* its_bias = bias.as<float>() + row * buckets;
    const double* load = loads.as<double>() + row * buckets;
    double total = 0;
    for (int64_t s = 0; s < buckets; ++s) total += load[s];
    if (total == 0) continue;
    float sum = 0;
    for (int64_t s = 0; s < buckets; ++s) {
      const auto share = static_cast<float>(load[s] * static_cast<double>(buckets) / total);
      its_bias[s] += rate * std::clamp(-std::log(share), -1.0f, 1.0f);
      sum += its_bias[s];
    }
    for (int64_t s = 0; s < buckets; ++s) its_bias[s] -= sum / static_cast<float>(buckets);
  }
}

}  // namespace cpu
}  // namespace scfa
