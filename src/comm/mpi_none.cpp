#include "comm/mpi.h"
#include "core/error.h"

namespace scfa::mpi {

bool built() {
  return false;
}
std::string description() {
  return "built without MPI: install libopenmpi-dev and build again (scripts/setup.sh does both), or start with srun "
         "or "
         "torchrun";
}
void join(int* /*rank*/, int* /*size*/) {
  fail("mpirun started several processes, but this program was ", description());
}
void leave() {}
std::string broadcast(std::string text) {
  return text;
}
std::unique_ptr<HostTransport> make_transport() {
  return nullptr;
}

}  // namespace scfa::mpi
