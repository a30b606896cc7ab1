// Stands in for gemm.cpp in a build without CUDA.
#include "kernels/linear/gemm.h"

namespace scfa::gpu {

namespace {

[[noreturn]] void fail_without_cuda() {
  fail("this build has no CUDA");
}

}  // namespace

void run_gemm(Context& /*ctx*/, const Gemm& /*gemm*/, const GemmOperands& /*operands*/, const char* /*op*/) {
  fail_without_cuda();
}
std::string gemm_library() {
  fail_without_cuda();
}
void measure_gemms(Context& /*ctx*/, bool /*on*/) {
  fail_without_cuda();
}
void set_gemm_algorithms(Context& /*ctx*/, std::vector<GemmAlgorithm> /*choices*/) {
  fail_without_cuda();
}
void clear_gemm_algorithms(Context& /*ctx*/) {
  fail_without_cuda();
}
std::vector<GemmAlgorithm> gemm_algorithms(Context& /*ctx*/) {
  fail_without_cuda();
}
std::vector<GemmAlgorithm> used_gemm_algorithms(Context& /*ctx*/) {
  fail_without_cuda();
}

}  // namespace scfa::gpu
