// What programs with OpenMP loops and OpenBLAS check before these libraries are initialised, which would end them by
// SIGSEGV or never: kernels/linear/linear.cpp registers it, so a program without GEMMs has none of it.
#pragma once
#include <cstddef>

namespace scfa {

// Address space that OpenBLAS takes for each thread when it is loaded, and as much again at the first GEMM.
inline constexpr size_t kBlasBuffer = size_t{128} << 20;

// Threads that OMP_NUM_THREADS may ask for where there are not as many processors: OpenMP takes stack for all of them.
inline constexpr long kMaxOpenMpThreads = 1024;

// Ends the program with one line and exit code 1 where OMP_NUM_THREADS asks for more threads than that, or where a
// limit of the process does not leave OpenBLAS the address space that it takes at first. Makes system calls only.
void check_blas_startup(int count, char** arguments, char** environment);

}  // namespace scfa
