// How the processes of a run find one another: rank 0 listens, every other rank connects to it twice, for messages and
// for heartbeats, and all learn who is there. What goes between two other ranks goes by way of rank 0.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/host_transport.h"
#include "comm/launch.h"
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
};

// Blocks until all ranks are there. Throws Error naming those that have not come after `seconds`, or why rank 0 cannot
// be reached.
Connections rendezvous(const Launch& launch, double seconds);

// Messages of all ranks, small and large, by way of rank 0. Both classes throw Error naming the rank that is gone.
class Messages {
 public:
  explicit Messages(Connections* connections) : c_(*connections) {}

  // Every rank's text, by rank. `what` must be the same everywhere: ranks that are not in the same place throw Error.
  std::vector<std::string> all_gather(const char* what, const std::string& mine);

 private:
  std::vector<std::string> gather_and_answer(const std::string& tag, const std::string& mine);
  Connections& c_;
  uint64_t count_ = 0;
};

std::unique_ptr<HostTransport> make_relay(Connections* connections);

}  // namespace scfa
