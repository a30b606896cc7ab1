// What the programs share: errors become one readable line and exit code 1.
#pragma once
#include <cstdio>
#include <exception>
#include <string>

#include "core/error.h"

namespace scfa {

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
