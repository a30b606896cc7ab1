// Moves the data of CPU ranks: two exchanges between the memories of all processes, by MPI where mpirun started them,
// else by way of rank 0 (comm/relay.h). Every rank calls the same functions in the same order.
#pragma once
#include <cstdint>
#include <vector>

namespace scfa {

class HostTransport {
 public:
  virtual ~HostTransport() = default;

  // Rank r gets bytes [to[r], to[r + 1]) of `send`; what rank r has for this one goes to [from[r], from[r + 1]) of
  // `receive`. to and from have size + 1 elements.
  virtual void all_to_all(const char* send, const std::vector<int64_t>& to, char* receive,
                          const std::vector<int64_t>& from) = 0;

  // Before, rank r has its part [parts[r], parts[r + 1]) of `data`; after, every rank has all parts.
  virtual void all_gather(char* data, const std::vector<int64_t>& parts) = 0;
};

}  // namespace scfa
