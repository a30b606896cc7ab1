// What this program was built from.
#pragma once
#include <string>

namespace scfa {

// Of the source: 12 digits, with "-dirty" behind them if it had changes; "unknown" outside a git checkout. Defined
// in git_commit.cpp of the build folder, which cmake/git_commit.cmake writes.
std::string git_commit();
std::string version();

}  // namespace scfa
