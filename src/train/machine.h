// Facts about the program and the machine it runs on, for the console and the header of a run.
#pragma once
#include <cstdint>
#include <string>

#include "core/context.h"

namespace scfa {

struct Machine {
  std::string cpu;  // model name
  int threads;      // that our loops and BLAS use
  int64_t memory;   // bytes
};
Machine this_machine();

// Where a config's or a program's device setting says to compute: "cpu"; "gpu", which throws Error if there is none; or
// "auto", the GPU if there is one.
Device choose_device(const std::string& device);
// What to warn of where "auto" is the CPU although a CUDA driver is installed; otherwise empty.
std::string cpu_warning(const std::string& device);

std::string device_name(Device device);  // of the GPU, or "cpu"

// Dense bf16 FLOP/s with f32 accumulation by the vendor's data sheet; 0 for a GPU that is not in our list.
double data_sheet_flops(const std::string& gpu);
double peak_flops(Device device);  // the same of the device of this rank; 0 for the CPU

// Bytes that could be allocated now, within the limits of the container and of the process (ulimit -v) if there are
// any.
int64_t available_memory();
int64_t available_memory(const Context& ctx);  // of its device: available_memory(), or the free memory of the GPU
// Throws Error saying what needs more memory of the context's device than is free.
void check_fits(const Context& ctx, const std::string& what, int64_t bytes);
// Throws Error unless there is address space for `beside` bytes and for what OpenBLAS and OpenMP take at the first
// GEMM: OpenBLAS would ask for it for ever.
void require_blas_memory(int64_t beside);
int64_t peak_memory();  // bytes of resident memory at its highest so far

}  // namespace scfa
