#include "train/replica_check.h"

#include <string>
#include <vector>

#include "kernels/hash_bits.h"

namespace scfa {

namespace {

uint64_t hash_of(const ParameterStore& store, Context& ctx, const Tensor& hash) {
  std::vector<Tensor> same{store.compute_params()};
  if (!store.sharded()) same = {store.master_params(), store.shards()[0].first_moment, store.shards()[0].second_moment};
  if (store.bucket_biases()) same.push_back(store.bucket_biases());
  uint64_t all = 0;
  for (const Tensor& tensor : same) {
    uint64_t bits = 0;
    hash_bits(ctx, hash, tensor);
    ctx.copy(Tensor(&bits, DType::kI32, Device::kCpu, {2}), hash);
    all = all * 31 + bits;
  }
  return all;
}

}  // namespace

void require_equal_replicas(World& world, const ParameterStore& store, Context& ctx, const Tensor& hash, int64_t step) {
  const std::vector<uint64_t> hashes = world.all_gather_values("hashes of the parameters", hash_of(store, ctx, hash));
  std::string differing;
  for (size_t r = 1; r < hashes.size(); ++r)
    if (hashes[r] != hashes[0]) differing += (differing.empty() ? "" : ", ") + world.name_of(static_cast<int>(r));
  if (!differing.empty())
    throw CollectiveError(
        concat("after step ", step, " the parameters are not the same on all ranks: those of ", differing,
               " differ from rank 0's (train.check_replicas). A GPU or its memory may be faulty. Nothing "
               "was saved"));
}

}  // namespace scfa
