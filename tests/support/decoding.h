// attention_decode and cache_append over one relation and one range of keys.
#pragma once
#include "kernels/attention/decode.h"

namespace scfa::test {

inline void append(Context& ctx, const KeyValueCache& cache, int64_t position, const ConstTensor& k,
                   const ConstTensor& v, const Tensor& k_segment) {
  Segments relation;
  relation.k_segment = k_segment;
  cache_append(ctx, cache, position, k, v, {&relation, 1});
}

inline void decode(Context& ctx, const Tensor& out, const ConstTensor& q, const KeyValueCache& cache,
                   const Tensor& q_segment, int64_t begin, int64_t end, float scale, const Tensor& lse = {}) {
  Segments relation;
  relation.q_segment = q_segment;
  const HeadRanges range{{begin, end}};
  attention_decode(ctx, out, lse, q, cache, {&relation, 1}, {&range, 1}, scale);
}

}  // namespace scfa::test
