#include "comm/connections.h"

#include "core/error.h"

namespace scfa {

std::string Connections::name_of(size_t r) const {
  return concat("rank ", r, " on ", peers.at(r).host);
}

void Connections::fail_gone(size_t r) const {
  fail("the connection to ", name_of(r), " is gone");
}

}  // namespace scfa
