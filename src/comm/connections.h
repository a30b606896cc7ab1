// The sockets between the processes of a run: every rank has two to rank 0, one for messages and one for heartbeats.
// What goes between two other ranks goes by way of rank 0.
#pragma once
#include <string>
#include <vector>

#include "comm/socket.h"

namespace scfa {

struct Peer {
  std::string host;     // its name
  std::string machine;  // the same for processes of one machine only
};

struct Connections {
  int rank = 0, size = 1;
  std::vector<Peer> peers;              // by rank
  std::string name_of(size_t r) const;  // "rank 1 on HOST"
  // On rank 0 one for each rank, empty for itself; elsewhere one, to rank 0.
  std::vector<Socket> messages, heartbeats;

  // Throws Error naming a rank whose messages can be neither read nor written any more.
  [[noreturn]] void fail_gone(size_t r) const;
};

}  // namespace scfa
