// What this program was built from.
#pragma once
#include <string>

namespace scfa {

std::string git_commit();  // of the source; "unknown" outside a git checkout
std::string version();

}  // namespace scfa
