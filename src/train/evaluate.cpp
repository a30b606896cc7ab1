#include "train/evaluate.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/rng.h"

namespace scfa {

double share_of_pairs(const Evaluation& evaluation) {
  double sum = 0, heads = 0;
  for (const auto& layer : evaluation.balance)
    for (const SegmentBalance& head : layer) sum += head.visible_share(), ++heads;
  return sum / heads;
}

bool is_dense_everywhere(const Evaluation& evaluation) {
  for (const auto& layer : evaluation.balance)
    for (const SegmentBalance& head : layer)
      if (std::min(head.pairs, head.largest) < static_cast<double>(head.sequences)) return false;
  return true;
}

std::string describe_balance(const Evaluation& evaluation) {
  SegmentBalance all;
  double least = std::numeric_limits<double>::infinity(), most = 0;
  for (const auto& layer : evaluation.balance) {
    SegmentBalance sum;
    for (const SegmentBalance& head : layer) {
      sum.pairs += head.pairs;
      sum.largest += head.largest;
      sum.sequences += head.sequences;
    }
    least = std::min(least, sum.effective_segments());
    most = std::max(most, sum.effective_segments());
    all.pairs += sum.pairs;
    all.largest += sum.largest;
    all.sequences += sum.sequences;
  }
  char text[128];
  std::snprintf(text, sizeof text, "effective segments %.2f (layers %.2f to %.2f), largest %.1f%% of the rows",
                all.effective_segments(), least, most, 100 * all.largest_share());
  return text;
}

Evaluator::Evaluator(const TokenSet& set, int64_t windows, int64_t sequence_length, int64_t batch)
    : set_(set), available_(count_windows(set, sequence_length)), length_(sequence_length), batch_(batch) {
  require(available_ > 0, set.directory(), ": its validation split of ", set.tokens(),
          " tokens is shorter than one window of ", sequence_length,
          "; prepare it with a larger --val-fraction, or lower model.sequence_length");
  windows_ = std::min(windows, available_);
}

void Evaluator::run_batch(Gpt& model, Feeder& feeder, int64_t begin) {
  inputs_.resize(static_cast<size_t>(batch_ * length_));
  targets_.resize(inputs_.size());
  samples_.resize(static_cast<size_t>(batch_));
  for (int64_t b = 0; b < batch_; ++b) {  // rows past the last window repeat it and do not count
    const int64_t index = std::min(begin + b, windows_ - 1);
    read_window(set_, window(index), length_, inputs_.data() + b * length_, targets_.data() + b * length_);
    samples_[static_cast<size_t>(b)] = static_cast<uint32_t>(index);
  }
  const int64_t rows = std::min(batch_, windows_ - begin);
  model.forward(feeder.put(inputs_, targets_, samples_, kEvaluationStep, rows), false);
}

double Evaluator::probe(Gpt& model, Feeder& feeder) {
  run_batch(model, feeder, 0);
  const LossSums sums = model.take_losses();
  return sums.loss / static_cast<double>(sums.tokens);
}

Evaluation Evaluator::run(Gpt& model, Feeder& feeder, int rank, int ranks, const std::function<void(double)>& progress,
                          const std::function<void(int64_t)>& after_batch) {
  const std::vector<BlockActivations>& blocks = model.activations().blocks;
  const int64_t batches = (windows_ + batch_ - 1) / batch_;
  Evaluation mine;
  mine.batches.resize(static_cast<size_t>(batches));
  mine.balance.assign(blocks.size(), std::vector<SegmentBalance>(static_cast<size_t>(model.config().n_head)));
  for (int64_t round = 0; round < batches; round += ranks) {
    progress(static_cast<double>(round) / static_cast<double>(batches));
    if (round + rank >= batches) continue;
    const int64_t begin = (round + rank) * batch_;
    run_batch(model, feeder, begin);
    mine.batches[static_cast<size_t>(round + rank)] = model.take_losses();
    const int64_t sequences = std::min(batch_, windows_ - begin);
    for (size_t layer = 0; layer < blocks.size(); ++layer)
      add_balance(model.context(), mine.balance[layer], blocks[layer].segments.relations, sequences, begin == 0);
    if (after_batch) after_batch(sequences);
  }
  return mine;
}

Evaluation merge(World& world, const Evaluation& mine) {
  static_assert(std::is_trivially_copyable_v<LossSums> && std::is_trivially_copyable_v<SegmentBalance>);
  const auto bytes_of = [](const auto& values) {
    return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof values[0]);
  };
  std::string text = bytes_of(mine.batches);
  for (const auto& layer : mine.balance) text += bytes_of(layer);
  Evaluation all = mine;
  const std::vector<std::string> texts = world.all_gather("evaluation", text);
  for (size_t r = 0; r < texts.size(); ++r) {
    if (static_cast<int>(r) == world.rank()) continue;
    require(texts[r].size() == text.size(), world.name_of(static_cast<int>(r)), ": evaluated another set of batches");
    const char* from = texts[r].data();
    const auto next = [&](auto value) {
      std::memcpy(&value, from, sizeof value);
      from += sizeof value;
      return value;
    };
    for (LossSums& batch : all.batches) batch += next(LossSums());
    for (auto& layer : all.balance)
      for (SegmentBalance& head : layer) {
        const SegmentBalance its = next(SegmentBalance());
        head.pairs += its.pairs;
        head.visible += its.visible;
        head.counted += its.counted;
        head.largest += its.largest;
        head.sequences += its.sequences;
      }
  }
  for (const LossSums& batch : all.batches) all.sums += batch;
  return all;
}

}  // namespace scfa
