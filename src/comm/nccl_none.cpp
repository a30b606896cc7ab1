#include "comm/collectives.h"
#include "core/error.h"

namespace scfa::nccl {

bool built() {
  return false;
}
std::string description() {
  return "built without NCCL: install libnccl-dev from NVIDIA's CUDA repository and build again";
}
std::unique_ptr<Collectives> make(World& world, Context& /*ctx*/, bool /*share_gpu*/) {
  fail(world.size(), " ranks on GPUs need NCCL, but this program was ", description());
}

}  // namespace scfa::nccl
