#include "core/version.h"

namespace scfa {

std::string version() {
  return SCFA_VERSION;
}

}  // namespace scfa
