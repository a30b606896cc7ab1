// How the processes of a run find one another: rank 0 listens, every other rank connects to it twice, for messages and
// for heartbeats, and all learn who is there.
#pragma once
#include "comm/connections.h"
#include "comm/launch.h"

namespace scfa {

// Blocks until all ranks are there. Throws Error naming those that have not come after `seconds`, or why rank 0 cannot
// be reached.
Connections rendezvous(const Launch& launch, double seconds);

}  // namespace scfa
