#include "kernels/hash_bits.h"

#include <cstring>

#include "core/rng.h"

namespace scfa {

void hash_bits(Context& ctx, Tensor hash, ConstTensor t) {
  constexpr const char* kOp = "hash_bits";
  require(t.data && t.contiguous() && t.bytes() % 4 == 0, kOp, ": t must be contiguous, of whole 32-bit words");
  require_tensor(hash, kOp, "hash", DType::kI32, {2});
  ctx.require_here(kOp, {hash, t});
  const ProfileRange range(ctx, kOp);
  if constexpr (kCudaBuild)
    if (ctx.on_gpu()) return gpu::hash_bits(ctx, hash, t);
  cpu::hash_bits(ctx, hash, t);
}

namespace cpu {

void hash_bits(Context& /*ctx*/, Tensor hash, ConstTensor t) {
  const auto* words = static_cast<const uint32_t*>(t.data);
  const int64_t n = t.bytes() / 4;
  uint64_t sum = 0;
#pragma omp parallel for reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += mix_word(words[i], static_cast<uint64_t>(i));
  std::memcpy(hash.data, &sum, sizeof sum);
}

}  // namespace cpu
}  // namespace scfa
