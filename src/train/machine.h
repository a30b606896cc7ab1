// Facts about the program and the machine it runs on, for the console and the header of a run.
#pragma once
#include <cstdint>
#include <string>

namespace scfa {

struct Machine {
  std::string cpu;  // model name
  int threads;      // that our loops and BLAS use
  int64_t memory;   // bytes
};
Machine this_machine();

std::string git_commit();  // of the source this was built from; "unknown" outside a git checkout
std::string version();

int64_t available_memory();  // bytes that could be allocated now, within the limit of the container if there is one
int64_t peak_memory();       // bytes of resident memory at its highest so far

}  // namespace scfa
