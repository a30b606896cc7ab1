#include "core/version.h"

namespace scfa {

std::string git_commit() {
  return *SCFA_COMMIT ? SCFA_COMMIT : "unknown";
}
std::string version() {
  return SCFA_VERSION;
}

}  // namespace scfa
