// Tensors' data of CPU ranks by way of rank 0, over the connections that carry their messages: what there is without
// MPI.
#pragma once
#include <memory>

#include "comm/connections.h"
#include "comm/host_transport.h"

namespace scfa {

// connections must outlive it. What it does throws Error naming the rank that is gone.
std::unique_ptr<HostTransport> make_relay(Connections* connections);

}  // namespace scfa
