// Whether kernels for sm_90a run here.
#pragma once
#include <string>

namespace scfa::gpu::sm90 {

// The result of a small GEMM, run on the device once. reason: why the kernels can or cannot be used.
struct Probe {
  bool usable;
  std::string reason;
};
const Probe& probe();

}  // namespace scfa::gpu::sm90
