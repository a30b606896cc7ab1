// Loss on a fixed set of validation windows, spread evenly over the split.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "comm/world.h"
#include "data/loader.h"
#include "model/gpt.h"
#include "train/feeder.h"

namespace scfa {

struct Evaluation {
  LossSums sums;                                     // of all batches, added up in their order
  std::vector<LossSums> batches;                     // by batch
  std::vector<std::vector<SegmentBalance>> balance;  // by layer and head
};

// The pairs of a query and a key that it sees, as a share of dense attention's: the mean over layers and heads, of the
// first batch. A pair counts once for each relation.
double share_of_pairs(const Evaluation& evaluation);

// Whether all rows of every head are in one segment.
bool is_dense_everywhere(const Evaluation& evaluation);

// "effective segments 3.10 (layers 1.20 to 9.80), largest 41.0% of the rows". Effective segments: 1 / (mean of
// SegmentBalance::pairs over heads and sequences); largest: the mean share.
std::string describe_balance(const Evaluation& evaluation);

// The evaluation that the ranks have made together. The losses do not depend on how many they are, to the bit.
Evaluation merge(World& world, const Evaluation& mine);

class Evaluator {
 public:
  // batch: sequences of the model's micro-batch. windows: how many to use; fewer if the split has fewer.
  Evaluator(const TokenSet& set, int64_t windows, int64_t sequence_length, int64_t batch);

  // The loss of the first micro-batch of windows, for checking that a model is fit to be saved.
  double probe(Gpt& model, Feeder& feeder);

  // This rank's share of the batches: every ranks-th, from its rank on; what the others have is zero until merge().
  // progress(share) is called on every rank before each round of batches and may throw to stop. after_batch(sequences),
  // if given, while the model's activations are those of a batch, of whose sequences the first count.
  Evaluation run(Gpt& model, Feeder& feeder, int rank, int ranks, const std::function<void(double)>& progress,
                 const std::function<void(int64_t)>& after_batch = {});

  // Of the last batch.
  const std::vector<int32_t>& inputs() const { return inputs_; }
  const std::vector<int32_t>& targets() const { return targets_; }

  int64_t windows() const { return windows_; }
  int64_t available() const { return available_; }                       // windows of the split
  int64_t window(int64_t i) const { return i * available_ / windows_; }  // of those, the i-th that is used

 private:
  void run_batch(Gpt& model, Feeder& feeder, int64_t begin);

  const TokenSet& set_;
  int64_t windows_, available_, length_, batch_;
  std::vector<int32_t> inputs_, targets_;
  std::vector<uint32_t> samples_;
};

}  // namespace scfa
