// The one owner of a model's parameters and of what training keeps beside them: flat buffers laid out by the table.
//
// What products read are the weights, bf16 on a GPU and f32 on the CPU; what the optimizer updates are the master
// values, f32, on the CPU the weights themselves. Where the state is sharded (ZeRO-1: Rajbhandari et al. 2019,
// arXiv:1910.02054) each rank keeps master values and moments of its parts only: of each bucket of parameters one
// (core/range.h). Weights and gradients are always whole.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/context.h"
#include "model/params.h"

namespace scfa {

// What there is of each parameter, f32.
enum class State { kMaster, kFirstMoment, kSecondMoment };

struct StoreOptions {
  bool training = false;  // with gradients and moments
  bool sharded = false;   // with training only
  int rank = 0, ranks = 1;
  int64_t bucket_elements = 0;  // buckets have at least so many: see make_buckets
};

// Groups of the table put together, for summing gradients: whole groups, of at least `least` elements where there are
// so many, in the order in which backward finishes them. The embeddings, which come last, are one of their own.
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

  Tensor weights() const { return weights_; }      // flat; what is computed with
  Tensor gradients() const { return gradients_; }  // flat, f32; empty unless training

  // What this rank updates: all parameters, or its part of each bucket. Views of f32; copy is empty on the CPU.
  struct Piece {
    Range range;  // of the flat buffers
    Tensor master, first_moment, second_moment, gradients;
    Tensor copy;  // of the weights in bf16
  };
  const std::vector<Piece>& pieces() const { return pieces_; }

  // ---- whole: as if nothing were sharded
  // The master values. Whoever writes to them calls values_changed() afterwards. Throws Error where only parts of them
  // are here.
  Tensor values() const;
  void values_changed();

  void init(uint64_t seed);  // initial values; the same on all ranks

  // A flat f32 tensor on the device to write all of a state to, taken over by put(). Where the state is not here whole,
  // that is the gradients' memory.
  Tensor staging(State state) const;
  void put(State state);
  // The same for reading: all of a state or, where it is sharded, this rank's parts of it, to be gathered by bucket.
  Tensor take(State state);

 private:
  bool is_whole(State state) const;
  Tensor whole(State state) const;
  Tensor part(const Piece& piece, State state) const;

  Context& ctx_;
  GptConfig config_;
  StoreOptions options_;
  ParameterTable table_;
  std::vector<Range> buckets_;
  std::unique_ptr<Arena> arena_;
  Tensor master_, weights_, gradients_, first_moment_, second_moment_;
  std::vector<Piece> pieces_;
};

}  // namespace scfa
