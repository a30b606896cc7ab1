// Keeps the model the same on all ranks of a run. Gradients are reduced over ranks in buckets of parameters: on a GPU
// beside the backward pass, each bucket once its gradients are complete, or else after it (train.overlap). With ZeRO-1
// (arXiv:1910.02054) each rank gets the sums of its shards only, updates those, and all gather compute_params; the next
// forward pass waits for a bucket before it uses it. With one rank nothing happens and nothing is held.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "comm/collectives.h"
#include "model/gpt.h"
#include "train/comm_stream.h"
#include "train/config.h"
#include "train/host_state.h"
#include "train/overlap.h"

namespace scfa {

// How the store of a rank is to be made.
StoreOptions store_options(const TrainConfig& config, int rank, int ranks);

class Replicas : public GptObserver {
 public:
  // share_gpu: several ranks use one GPU. Every rank makes its own at the same time.
  Replicas(World& world, ParameterStore& store, const TrainConfig& config, bool share_gpu);
  ~Replicas() override;

  // Bytes beside what the store holds.
  static int64_t memory(const Context& ctx, const ParameterTable& table, const TrainConfig& config, int ranks);

  // ---- a step: begin_step() before the backward pass of its last micro-batch, finish_gradients() behind it,
  // all_reduce() for what else is summed, finish_step() behind the update.
  void begin_step();
  void finish_gradients();
  void all_reduce(const Tensor& sums, const char* what);
  void finish_step();
  // After a step, with the time it took. Returns what train.overlap auto found (train/overlap.h), in the step in which
  // it does, on all ranks.
  std::string note_step(double seconds);

  // While on, the profiler gets kExposed and, on GPUs, kCommunication.
  void measure_times(bool on);

  // GptObserver: of the model that is trained
  void before_use(size_t group) override;
  void gradients_ready(size_t group) override;
  void before_attention_backward() override;

  // ---- everything at once, on all ranks
  void download(HostState& state);  // to the host of the rank whose state it is
  void upload(HostState& state);    // from rank 0's
  // Throws CollectiveError naming the ranks whose parameters are not those of the others.
  void compare(int64_t step);

  std::string describe() const;  // "collectives: NCCL 2.28.9; gradients reduced in f32, 13 buckets"

 private:
  struct Bucket {
    Range range;
    Event ready = nullptr;     // its gradients are there
    Event gathered = nullptr;  // its compute_params are there
    bool complete = false, reduced = false, gathering = false;
  };
  void reduce(Bucket& bucket);
  void reduce_on_stream(const Range& range);
  void gather_params();
  std::string reached() const;
  bool alone() const { return world_.size() == 1; }
  size_t bucket_of(size_t group) const;

  World& world_;
  ParameterStore& store_;
  Context& ctx_;
  std::unique_ptr<Collectives> collectives_;
  std::vector<Bucket> buckets_;
  Arena arena_;
  Tensor staging_, hash_;             // a bucket in bf16
  std::unique_ptr<CommStream> comm_;  // none with one rank
  OverlapPolicy overlap_;
  bool reducing_ = false;            // beside the backward pass under way
  std::atomic<size_t> launched_{0};  // buckets of this step whose sum has been launched
};

}  // namespace scfa
