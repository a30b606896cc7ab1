// All of a model's parameters and moments where the host can read and write them, for checkpoints: flat, f32, laid out
// by the table. The store's own memory where that will do, else copies.
#pragma once
#include <array>
#include <functional>

#include "model/parameter_store.h"

namespace scfa {

class HostState {
 public:
  // moments: also the optimizer's. here: whether this rank reads and writes them; other ranks have no views.
  HostState(ParameterStore& store, bool moments, bool here = true);

  Tensor view(State state) const { return views_[static_cast<size_t>(state)]; }  // empty if there is none
  bool has_moments() const { return moments_; }
  const BucketBiasTable& bucket_bias_table() const { return store_.bucket_bias_table(); }
  Tensor bucket_biases() const { return bucket_biases_; }  // flat; empty if there are none

  // download() copies the store's state to the host and calls all_gather with each tensor that holds only this rank's
  // shards. upload() copies it back and calls broadcast with each tensor before the store takes it over.
  using WithTensor = std::function<void(const Tensor&)>;
  void download(const WithTensor& all_gather = {});
  void upload(const WithTensor& broadcast = {});

 private:
  template <class Visit>
  void for_each_state(const Visit& visit);

  ParameterStore& store_;
  bool moments_, here_;
  std::array<Buffer, 3> copies_;
  std::array<Tensor, 3> views_;
  Buffer bucket_bias_copy_;
  Tensor bucket_biases_;
};

}  // namespace scfa
