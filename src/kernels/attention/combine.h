// Attention over two sets of keys from the results over each, as FlashAttention combines splits of the keys
// (Dao et al. 2022, arXiv:2205.14135, section 3.1).
#pragma once
#include <cmath>

#include "core/host_device.h"

namespace scfa {

// Merged: out = existing * (existing out) + added * (added out), with log-sum-exp lse. All lse are in log2 units; +inf
// means that no key was seen.
struct CombineWeights {
  float existing, added, lse;
};
SCFA_HOST_DEVICE inline CombineWeights combine_weights(float existing_lse, float added_lse) {
  if (added_lse == INFINITY) return {1.0f, 0.0f, existing_lse};
  if (existing_lse == INFINITY) return {0.0f, 1.0f, added_lse};
  const float top = existing_lse > added_lse ? existing_lse : added_lse;
  const float existing = exp2f(existing_lse - top), added = exp2f(added_lse - top), total = existing + added;
  return {existing / total, added / total, top + log2f(total)};
}

}  // namespace scfa
