#include "train/checkpoint_evaluation.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

#include "core/human.h"
#include "core/ignored_target.h"
#include "core/rng.h"
#include "core/signals.h"
#include "data/synthetic.h"
#include "train/checkpoint.h"
#include "train/config_io.h"
#include "train/machine.h"
#include "train/position_losses.h"
#include "train/preflight.h"
#include "train/run_folder.h"

namespace scfa {

namespace {

// Share of all work done, and the time that the rest will take, by the model's FLOPs.
class Progress {
 public:
  Progress(std::function<void(double, const std::string&)> tell, const std::vector<double>& passes)
      : tell_(std::move(tell)), passes_(passes) {
    for (const double flops : passes) total_ += flops;
  }

  // share: of the pass under way.
  void operator()(double share, const std::string& what) {
    check_stop("stopped; nothing was written");
    if (!tell_) return;
    const double done = (before_ + share * passes_[pass_]) / total_;
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - began_;
    tell_(done, done > 0 ? concat(what, "  ", format_duration(passed.count() * (1 - done) / done), " left") : what);
  }
  void next_pass() { before_ += passes_[pass_++]; }

 private:
  std::function<void(double, const std::string&)> tell_;
  std::vector<double> passes_;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  double before_ = 0, total_ = 0;
  size_t pass_ = 0;
};

// One evaluation: what the passes over the text share.
class Run {
 public:
  explicit Run(const CheckpointEvaluationOptions& options)
      : options_(options),
        state_(find_checkpoint(options.checkpoint)),
        set_(options.data.empty() ? state_.config.data.directory : options.data, options.split),
        ctx_(choose_device(options.device)) {
    result_.checkpoint = state_.path;
    result_.warnings = state_.skipped;
    result_.step = state_.step;
    result_.trained = state_.config;
    result_.trained.model = model_after(state_.config, state_.step);
    result_.config = result_.trained;
    result_.data = set_.directory();
    result_.split = options.split;
    result_.device = device_name(ctx_.device());
    for (const auto& [key, value] : options.overrides) {
      require(!key.starts_with("model.") || model().rotary(), "--", key, ": ", state_.path, " has learned positions, ",
              length(), " of them; only rotary ones can be evaluated at another length or base");
      override_config(result_.config, key, value);
    }
    require(model().schedule.empty(), "--attention: must be the patterns to evaluate with, not a schedule");
    validate(model());
    if (ctx_.on_gpu()) validate_for_gpu(model());
    check_tokenizer(state_, set_);
    check_text();
    const int64_t N = options.short_context;
    require(N == 0 || (N >= 2 && N <= length() && N % 2 == 0),
            "--short-context: must be an even number of tokens from 2 to the model's context of ", length(), ", not ",
            N);
    const int64_t tokens = state_.config.train.micro_batch_size * state_.config.model.sequence_length;
    batch_ = options.batch.value_or(std::max<int64_t>(1, tokens / length()));
    require(batch_ >= 1, "--batch: must be at least 1, not ", batch_);
    check_memory();
  }

  CheckpointEvaluation operator()() {
    store_ = std::make_unique<ParameterStore>(ctx_, model(), StoreOptions{});
    load_checkpoint(state_.path, *store_);
    Evaluator evaluator(set_, windows_, length(), batch_);
    result_.windows = evaluator.windows();
    result_.available = evaluator.available();
    Progress progress = plan_passes();
    PositionLosses full(length());
    run_full(evaluator, full, progress);
    if (options_.short_context > 0) run_short(evaluator, full, progress);
    return std::move(result_);
  }

 private:
  const GptConfig& model() const { return result_.config.model; }
  int64_t length() const { return model().sequence_length; }
  uint64_t seed() const { return static_cast<uint64_t>(state_.config.seed); }
  // About as many tokens at a time as in whole windows.
  int64_t short_batch() const { return std::max<int64_t>(1, batch_ * length() / options_.short_context); }
  int64_t short_windows() const {  // of a whole one
    return (length() - options_.short_context) / (options_.short_context / 2) + 1;
  }

  void check_text() {
    const int64_t available = count_windows(set_, length()),
                  given = options_.windows.value_or(state_.config.eval.windows);
    require(available > 0, set_.directory(), ": its ", name_of(set_.split()), " split of ", set_.tokens(),
            " tokens is shorter than one window of the model, ", length() + 1, "; give a set with more text");
    require(set_.manifest().sequence_length == 0 || options_.short_context == 0, "--short-context: ", set_.directory(),
            " is of synthetic sequences, whose answers need all of them");
    check_sequences(result_.config, set_);
    require(given >= 0, "--windows: must be at least 1, or 0 for all, not ", given);
    windows_ = given == 0 ? available : given;
  }

  void check_memory() const {
    int64_t bytes = total_bytes(Gpt::memory_plan(ctx_, model(), batch_, Gpt::Mode::kEvaluation)) +
                    Feeder::memory(ctx_, batch_, length());
    if (options_.recall) bytes += RecallMeter::memory(ctx_, model(), batch_);
    const int64_t N = options_.short_context;
    if (N > 0)
      bytes = std::max(bytes, total_bytes(Gpt::memory_plan(ctx_, model(), short_batch(), Gpt::Mode::kEvaluation, N)) +
                                  Feeder::memory(ctx_, short_batch(), N));
    bytes += total_bytes(ParameterStore::memory_plan(ctx_, model(), StoreOptions{}));
    check_fits(ctx_, concat("--batch: ", batch_, " sequences of ", length(), " tokens"), bytes);
    if (!ctx_.on_gpu()) require_blas_memory(bytes);
  }

  Progress plan_passes() const {
    const double tokens = static_cast<double>(result_.windows * length());
    GptConfig dense = model(), truncated = model();
    dense.attention = {HeadPatterns(1)};
    std::vector<double> passes{tokens * model_flops_per_token(model())};
    if (options_.recall) passes.push_back(tokens * (model_flops_per_token(dense) + model_flops_per_token(model())));
    if (options_.short_context > 0) {
      truncated.sequence_length = options_.short_context;
      const double read = static_cast<double>(result_.windows * short_windows() * options_.short_context);
      passes.push_back(read * model_flops_per_token(truncated));
    }
    return {options_.progress, passes};
  }

  void run_full(Evaluator& evaluator, PositionLosses& full, Progress& progress) {
    Gpt gpt(*store_, model(), batch_, seed(), Gpt::Mode::kEvaluation);
    Feeder feeder(ctx_, batch_, length());
    const auto pass = [&](const char* what, const std::function<void(int64_t)>& after_batch) {
      Evaluation evaluation = evaluator.run(
          gpt, feeder, 0, 1, [&](double share) { progress(share, what); }, after_batch);
      for (const LossSums& batch : evaluation.batches) evaluation.sums += batch;
      require(std::isfinite(evaluation.sums.loss), state_.path,
              ": its loss is not finite, first in: ", gpt.first_non_finite());
      progress.next_pass();
      return evaluation;
    };
    const bool synthetic = set_.manifest().sequence_length > 0;
    PositionLosses by_distance(length());
    result_.losses = pass("evaluating", [&](int64_t sequences) {
      const TokenLosses losses(gpt, sequences, length());
      for (int64_t b = 0; b < sequences; ++b) {
        const int32_t *inputs = evaluator.inputs().data() + b * length(),
                      *targets = evaluator.targets().data() + b * length();
        for (int64_t t = 0; t < length(); ++t)
          if (targets[t] != kIgnoredTarget) full.at(t) += losses.of(b, t);
        if (!synthetic) continue;
        const std::vector<int64_t> distances = answer_distances(inputs, targets, length());
        for (int64_t t = 0; t < length(); ++t)
          if (const int64_t distance = distances[static_cast<size_t>(t)]; distance > 0)
            by_distance.at(distance) += losses.of(b, t);
      }
    });
    const auto add = [](const PositionLosses& sums, int64_t first, int64_t last, std::vector<PositionRange>& to) {
      if (const LossSums all = sums.over(first, last); all.tokens > 0) to.push_back({first, last, all});
    };
    for_each_position_range(0, length(),
                            [&](int64_t first, int64_t last) { add(full, first, last, result_.positions); });
    for (int64_t first = 1; first < length(); first *= 2)
      add(by_distance, first, std::min(2 * first, length()) - 1, result_.distances);
    if (!options_.recall) return;
    const RecallMeter meter(gpt, result_.trained.model.attention);
    result_.dense = pass("measuring recall", {}).sums;
    result_.recall = meter.heads();
  }

  void run_short(const Evaluator& evaluator, const PositionLosses& full, Progress& progress) {
    const int64_t N = options_.short_context, B = short_batch(), each = short_windows(),
                  all = evaluator.windows() * each;
    Gpt gpt(*store_, model(), B, seed(), Gpt::Mode::kEvaluation, N);
    Feeder feeder(ctx_, B, N);
    PositionLosses truncated(length());
    std::vector<int32_t> inputs(static_cast<size_t>(B * N)), targets(inputs.size());
    std::vector<uint32_t> samples(static_cast<size_t>(B));
    const auto start = [&](int64_t i) { return i % each * (N / 2); };  // of short window i in its whole one
    for (int64_t begin = 0; begin < all; begin += B) {
      progress(static_cast<double>(begin) / static_cast<double>(all), "evaluating short contexts");
      for (int64_t b = 0; b < B; ++b) {  // rows past the last window repeat it and do not count
        const int64_t i = std::min(begin + b, all - 1);
        read_row(set_, evaluator.window(i / each) * length() + start(i), N, inputs.data() + b * N,
                 targets.data() + b * N);
        samples[static_cast<size_t>(b)] = static_cast<uint32_t>(i / each);
      }
      const Batch batch = feeder.put(inputs, targets, samples, kEvaluationStep, std::min(B, all - begin));
      gpt.forward(batch, false);
      const TokenLosses losses(gpt, batch.rows, N);
      for (int64_t b = 0; b < batch.rows; ++b)
        for (int64_t t = N / 2; t < N; ++t) truncated.at(start(begin + b) + t) += losses.of(b, t);
    }
    progress.next_pass();
    for_each_position_range(N / 2, (each + 1) * (N / 2), [&](int64_t first, int64_t last) {
      result_.short_context.push_back({first, last, full.over(first, last), truncated.over(first, last)});
    });
  }

  const CheckpointEvaluationOptions& options_;
  const CheckpointState state_;
  const TokenSet set_;
  Context ctx_;
  int64_t windows_ = 0, batch_ = 0;
  CheckpointEvaluation result_;
  std::unique_ptr<ParameterStore> store_;
};

}  // namespace

ShortContextRange CheckpointEvaluation::short_context_total() const {
  ShortContextRange total;
  if (short_context.empty()) return total;
  total.first = short_context.front().first, total.last = short_context.back().last;
  for (const ShortContextRange& range : short_context) {
    total.full += range.full;
    total.truncated += range.truncated;
  }
  return total;
}

CheckpointEvaluation evaluate_checkpoint(const CheckpointEvaluationOptions& options) {
  return Run(options)();
}

}  // namespace scfa
