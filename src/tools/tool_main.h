// What the programs share: errors become one readable line and exit code 1.
#pragma once
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "core/error.h"

namespace scfa {

// OpenMP's threads spin while they wait, and on a machine with other work to do that makes small models tens of times
// slower. The runtime reads its settings before main, so the program starts itself once more with the right one.
inline void wait_passively(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  setenv("OMP_WAIT_POLICY", "passive", 1);
  execv("/proc/self/exe", argv);  // returns only where that cannot be done; then we go on as we are
}

template <class Body>
int tool_main(const char* name, const Body& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "%s: not enough memory\n", name);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
  }
  return 1;
}

}  // namespace scfa
