// Checks limits before OpenMP and OpenBLAS are initialised, which would otherwise crash or hang.
// kernels/linear/linear.cpp registers check_blas_startup(), so programs without GEMMs do not run it.
#pragma once
#include <cstddef>

namespace scfa {

// Address space that OpenBLAS takes for each thread when it is loaded, and as much again at the first GEMM.
inline constexpr size_t kBlasBuffer = size_t{128} << 20;

// OMP_NUM_THREADS may exceed this only up to the number of processors: OpenMP allocates a stack for every thread.
inline constexpr long kMaxOpenMpThreads = 1024;

// Ends the program with one line and exit code 1 if OMP_NUM_THREADS is above that, or if a limit of the process leaves
// OpenBLAS too little address space to start. Makes system calls only.
void check_blas_startup(int count, char** arguments, char** environment);

}  // namespace scfa
