// Sums and copies of tensors over the ranks of a run: by NCCL between GPUs, by MPI or sockets between CPUs. Every rank
// calls the same functions in the same order with tensors of the same size and type, contiguous and on its device.
//
// A tensor has a part for each rank (core/range.h). Sums: on the CPU in the order of the ranks, so that a result
// does not depend on which rank is late, nor on whether it was computed by all_reduce or reduce_scatter; on GPUs in
// NCCL's order, which is the same in every run of the same ranks on the same machines. All ranks get the same bits.
//
// On a GPU everything is launched on Context::comm_stream() and returns at once; on the CPU it has been done.
#pragma once
#include <memory>
#include <string>

#include "comm/world.h"
#include "core/context.h"
#include "core/range.h"

namespace scfa {

class Collectives {
 public:
  virtual ~Collectives() = default;

  virtual void all_reduce(const Tensor& t) = 0;      // t = sum of all ranks' t
  virtual void reduce_scatter(const Tensor& t) = 0;  // this rank's part of t = sum of theirs; the rest is undefined
  virtual void all_gather(const Tensor& t) = 0;      // every rank's part of t reaches all
  virtual void broadcast(const Tensor& t) = 0;       // t = rank 0's t

  // Unblocks, from any thread, a waiting collective; nothing else may be called afterwards.
  virtual void abort() noexcept {}
  // Throws Error if one has failed since the last call; costs nothing.
  virtual void check() {}

  virtual std::string describe() const = 0;  // "NCCL 2.28.9"
};

// For ctx's device. share_gpu: several ranks use one GPU. Throws Error if this build has no NCCL.
std::unique_ptr<Collectives> make_collectives(World& world, Context& ctx, bool share_gpu);

// Those of the CPU, over any transport; f32 and f64.
std::unique_ptr<Collectives> make_host_collectives(World& world);

namespace nccl {
bool built();
std::string description();  // the library's version, or how to get it
std::unique_ptr<Collectives> make(World& world, Context& ctx, bool share_gpu);
}  // namespace nccl

}  // namespace scfa
