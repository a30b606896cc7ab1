// How the ops of this folder divide a GPU context's workspace: cuBLASLt's part, and partial sums behind it.
#pragma once
#include "core/context.h"

namespace scfa::gpu {

constexpr int64_t kLibraryBytes = 32 << 20;
static_assert(kLibraryBytes < Context::kWorkspaceBytes);

inline float* partial_sums(const Context& ctx) {
  return reinterpret_cast<float*>(static_cast<char*>(ctx.workspace()) + kLibraryBytes);
}

}  // namespace scfa::gpu
