// The one owner of a model's parameters and of what training keeps beside them: flat buffers laid out by the table.
//
// Forward and backward read compute_params, bf16 on a GPU and f32 on the CPU; the optimizer updates master_params, f32,
// which on the CPU are the same memory. Where the state is sharded (ZeRO-1: Rajbhandari et al. 2019, arXiv:1910.02054)
// each rank keeps master_params and moments of its shards only: one of each bucket of parameters (core/range.h).
// compute_params and gradients are always whole.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/context.h"
#include "model/bucket_biases.h"
#include "model/params.h"

namespace scfa {

// What there is of each parameter, f32.
enum class State { kMasterParams, kFirstMoment, kSecondMoment };

struct StoreOptions {
  bool training = false;  // with gradients and moments
  bool sharded = false;   // with training only
  int rank = 0, ranks = 1;
  int64_t bucket_elements = 0;  // buckets have at least so many: see make_buckets
};

// Buckets of whole groups of the table, for summing gradients, in the order in which backward finishes them, of at
// least `least` elements where possible. Embeddings are the last bucket, or join the only other one if it has fewer.
std::vector<Range> make_buckets(const ParameterTable& table, int64_t least);

class ParameterStore {
 public:
  // Everything is zero. Throws Error if memory does not suffice.
  ParameterStore(Context& ctx, const GptConfig& config, const StoreOptions& options);

  // Bytes by name, without allocating anything.
  static std::vector<Arena::Item> memory_plan(const Context& ctx, const GptConfig& config, const StoreOptions& options);

  Context& context() { return ctx_; }
  const ParameterTable& table() const { return table_; }
  const std::vector<Range>& buckets() const { return buckets_; }
  bool training() const { return options_.training; }
  bool sharded() const { return options_.sharded; }

  Tensor compute_params() const { return compute_params_; }  // flat; bf16 on a GPU
  Tensor gradients() const { return gradients_; }            // flat, f32; empty unless training

  // Flat, f32 and f64, the same on all ranks; empty where no pattern learns biases, the loads unless training.
  const BucketBiasTable& bucket_bias_table() const { return bucket_bias_table_; }
  Tensor bucket_biases() const { return bucket_biases_; }
  Tensor bucket_loads() const { return bucket_loads_; }

  // What this rank owns, that is updates: all parameters, or its part of each bucket. Views of f32 but for the last.
  struct Shard {
    Range range;  // of the flat buffers
    Tensor master_params, first_moment, second_moment, gradients;
    Tensor compute_params;  // bf16, on a GPU; empty on the CPU, where they are the master_params
  };
  const std::vector<Shard>& shards() const { return shards_; }

  // ---- whole: as if nothing were sharded
  // f32. Whoever writes to them calls master_params_changed() afterwards. Throws Error where only shards of them are
  // here.
  Tensor master_params() const;
  void master_params_changed();

  void init(uint64_t seed);  // initial values; the same on all ranks

  // A flat f32 tensor on the device to write all of a state to, taken over by put(). Where the state is not here whole,
  // that is the gradients' memory.
  Tensor staging(State state) const;
  void put(State state);
  // The same for reading: all of a state or, where it is sharded, this rank's shards of it, to be gathered by bucket.
  Tensor take(State state);

 private:
  bool is_whole(State state) const;
  Tensor whole(State state) const;
  static Tensor state_of(const Shard& shard, State state);

  Context& ctx_;
  GptConfig config_;
  StoreOptions options_;
  ParameterTable table_;
  BucketBiasTable bucket_bias_table_;
  std::vector<Range> buckets_;
  std::unique_ptr<Arena> arena_;
  Tensor master_params_, compute_params_, gradients_, first_moment_, second_moment_, bucket_biases_, bucket_loads_;
  std::vector<Shard> shards_;
};

}  // namespace scfa
