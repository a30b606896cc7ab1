// Argument checks of ops on (B, T, H, D) tensors.
#pragma once
#include "core/tensor.h"

namespace scfa {

// Throws Error unless t is (B, T, H, D), D contiguous.
inline void require_rows(const char* op, const char* name, const ConstTensor& t) {
  require(t.data && t.ndim == 4 && t.stride[3] == 1, op, ": ", name, " must be (B, T, H, D), D contiguous, not ",
          t.data == nullptr ? "empty" : t.describe());
}

}  // namespace scfa
