// Small messages of all ranks, by way of rank 0: what they agree on.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "comm/connections.h"

namespace scfa {

// Throws Error naming the rank that is gone.
class Messages {
 public:
  explicit Messages(Connections* connections) : c_(*connections) {}  // connections must outlive it

  // Every rank's text, by rank. `what` must be the same everywhere: ranks that are not in the same place throw Error.
  std::vector<std::string> all_gather(const char* what, const std::string& mine);

 private:
  std::vector<std::string> gather_and_answer(const std::string& tag, const std::string& mine);
  Connections& c_;
  uint64_t count_ = 0;
};

}  // namespace scfa
