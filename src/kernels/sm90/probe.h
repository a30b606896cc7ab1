// Whether kernels for sm_90a run here.
#pragma once
#include <string>

namespace scfa::gpu::sm90 {

// A small GEMM is computed on the device, once. Otherwise why not.
struct Probe {
  bool usable;
  std::string reason;
};
const Probe& probe();

}  // namespace scfa::gpu::sm90
