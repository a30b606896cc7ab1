#include "train/trainer.h"

#include <spdlog/fmt/fmt.h>

#include <chrono>
#include <cmath>
#include <filesystem>

#include "core/signals.h"
#include "data/folder_lock.h"
#include "train/evaluate.h"
#include "train/feeder.h"
#include "train/machine.h"
#include "train/preflight.h"
#include "train/report.h"
#include "train/run_folder.h"
#include "train/saver.h"
#include "train/watchdog.h"

namespace scfa {

namespace fs = std::filesystem;

namespace {

struct Stopped {};  // thrown out of an evaluation when a signal came

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool due(int64_t step, int64_t every) {
  return every > 0 && step % every == 0;
}

class Trainer {
 public:
  Trainer(const Config& config, const TrainOptions& options, Console& console)
      : console_(console),
        options_(options),
        train_set_(open_split(config, Split::kTrain)),
        val_set_(open_split(config, Split::kVal)),
        config_(complete(config, train_set_, choose_device(config.device))),
        run_(run_folder(config_)),
        ctx_(choose_device(config_.device)),
        evaluator_(val_set_, config_.eval.windows, config_.model.sequence_length, config_.train.micro_batch_size),
        tokens_a_step_(config_.train.batch_size * config_.model.sequence_length),
        watchdog_({config_.train.watchdog_seconds, config_.train.stop_seconds},
                  [&console] { console.redraw_if_resized(); }),
        saver_(run_, config_.checkpoint, console, watchdog_) {}

  TrainResult run() {
    describe_run(console_, ctx_, config_, train_set_, evaluator_);
    check_memory(ctx_, config_, console_);
    require(!options_.resume || !options_.overwrite,
            "--resume goes on with a run and --overwrite replaces it: give one");
    if (options_.resume) require_run(run_);
    if (options_.dry_run) {
      FolderLock::check_free(run_);
      require_writable(run_);
      choose_start();
      verify_data(config_, train_set_, val_set_, console_);
      console_.line("dry run: everything is in order; nothing was allocated or written");
      return {};
    }
    const FolderLock lock(run_);
    const std::optional<CheckpointState> checkpoint = choose_start();
    verify_data(config_, train_set_, val_set_, console_);
    start(checkpoint);
    train_steps();
    return finish();
  }

 private:
  LoaderOptions loader_options() const {
    return {.order = parse_sample_order(config_.data.order),
            .seed = static_cast<uint64_t>(config_.seed),
            .sequence_length = config_.model.sequence_length,
            .batch = config_.train.micro_batch_size,
            .micro_steps = config_.accumulation()};
  }

  // The checkpoint to go on from, if any. Checks only: what is there stays as it is.
  std::optional<CheckpointState> choose_start() {
    if (!options_.resume) {
      if (!options_.overwrite) require_no_run(run_);
      return {};
    }
    std::optional<CheckpointState> checkpoint = find_start(run_, options_.resume_from, console_);
    if (checkpoint) check_resumable(*checkpoint, config_, train_set_, device_name(ctx_.device()), console_);
    return checkpoint;
  }

  // Makes everything that takes memory, then the run's folder: until then an earlier run is as it was.
  void start(const std::optional<CheckpointState>& checkpoint) {
    model_ = std::make_unique<Gpt>(ctx_, config_.model, config_.train.micro_batch_size,
                                   static_cast<uint64_t>(config_.seed), Gpt::Mode::kTraining);
    optimizer_ = std::make_unique<Optimizer>(ctx_, model_->table(), config_.optimizer);
    if (checkpoint) {
      load_checkpoint(checkpoint->path, *model_, optimizer_.get());
      step_ = checkpoint->step;
      tokens_ = checkpoint->tokens;
      validation_ = checkpoint->validation_loss;
      console_.line(fmt::format("resumed from {} after step {}", checkpoint->path, step_));
    } else {
      model_->init(static_cast<uint64_t>(config_.seed));
    }
    feeder_ = std::make_unique<Feeder>(ctx_, config_.train.micro_batch_size, config_.model.sequence_length);
    loader_ = std::make_unique<Loader>(train_set_, loader_options());
    check_stop("stopped before the first step; nothing was changed");
    if (options_.overwrite) remove_run_files(run_, console_);
    fs::create_directories(run_);
    metrics_ = std::make_unique<Metrics>(metrics_path(run_), config_, *model_, step_);
    reporter_ = std::make_unique<Reporter>(console_, *metrics_, ctx_, config_, step_);
    saver_.hold(step_, checkpoint ? checkpoint->path : "");
    if (options_.resume) saver_.prune();  // a kill may have left it undone
  }

  void train_steps() {
    while (step_ < config_.train.steps && !stop_requested()) {
      if (due(step_, config_.eval.every) && !validation_ && !evaluate()) return;
      if (saver_.due(step_)) save();
      if (!train_step()) return;
    }
  }

  // False if a signal came between two micro-batches: their gradients are dropped, and the step has not been.
  bool train_step() {
    const double began = now(), waited = loader_->waited_seconds();
    const bool profiled = due(step_ + 1, config_.log.every);
    const double lr = learning_rate(config_.schedule, step_, config_.train.steps);
    double loss = 0, norm = 0;
    {
      const Watched watched(watchdog_, Work::kStep, concat("step ", step_ + 1));
      const bool whole = accumulate_gradients(profiled);
      if (whole) {
        ctx_.collect_times(profiled);
        optimizer_->measure(*model_);
        optimizer_->update(*model_, lr, step_ + 1);
      }
      ctx_.collect_times(false);
      const LossSums sums = model_->take_losses();  // here the host waits for the device
      if (!whole) return false;
      loss = sums.loss / static_cast<double>(sums.tokens);
      norm = static_cast<double>(optimizer_->norm());
    }
    if (!std::isfinite(loss) || !std::isfinite(norm)) fail_non_finite(loss, norm);
    const double seconds = now() - began;
    if (profiled) reporter_->profile(step_ + 1, seconds, ctx_.take_times());
    ++step_;
    tokens_ += tokens_a_step_;
    validation_.reset();
    reporter_->step({.step = step_,
                     .loss = loss,
                     .lr = lr,
                     .grad_norm = norm,
                     .tokens = tokens_,
                     .seconds = seconds,
                     .waited = loader_->waited_seconds() - waited});
    return true;
  }

  // profiled: collect times of the first micro-batch. False if a signal came before the last one.
  bool accumulate_gradients(bool profiled) {
    model_->zero_gradients();
    for (int64_t micro = 0; micro < config_.accumulation(); ++micro) {
      if (micro > 0 && stop_requested()) return false;
      // On a CPU work has been done when a call returns, so each micro-batch is a sign of life.
      if (micro > 0 && !ctx_.on_gpu())
        watchdog_.begin(Work::kStep, concat("micro-batch ", micro + 1, " of step ", step_ + 1));
      const Batch batch = next_batch(micro);
      ctx_.collect_times(profiled && micro == 0);
      model_->forward(batch, true);
      model_->backward(batch);
    }
    return true;
  }

  Batch next_batch(int64_t micro) {
    const TokenBatch& tokens = loader_->batch(step_, micro);
    Batch batch = feeder_->put(tokens.inputs, tokens.targets, tokens.samples);
    batch.step = static_cast<uint32_t>(step_);
    batch.gradient_scale = 1.0f / static_cast<float>(tokens_a_step_);
    return batch;
  }

  [[noreturn]] void fail_non_finite(double loss, double norm) {
    // Once more a micro-batch at a time, so that the activations of the bad one are there to look at.
    for (int64_t micro = 0; !std::isfinite(loss) && micro < config_.accumulation(); ++micro) {
      model_->forward(next_batch(micro), false);
      if (!std::isfinite(model_->take_losses().loss)) break;
    }
    const std::string tensor = model_->first_non_finite();
    const bool in_loss = !std::isfinite(loss);
    fail("step ", step_ + 1, ": the ", in_loss ? "loss" : "gradient norm", " is not finite (", in_loss ? loss : norm,
         "); first bad tensor: ", tensor.empty() ? "none; the sum itself overflowed" : tensor,
         std::isfinite(norm) ? "." : ". The step was not applied and", std::isfinite(norm) ? " No" : " no",
         " checkpoint was touched");
  }

  // False if a signal came meanwhile.
  bool evaluate() {
    const double began = now();
    const std::string what = concat("a batch of the evaluation after step ", step_);
    Evaluation evaluation;
    try {
      const Watched watched(watchdog_, Work::kEvaluation, what);
      evaluation = evaluator_.run(*model_, *feeder_, [&](double share) {
        if (stop_requested()) throw Stopped();
        watchdog_.begin(Work::kEvaluation, what);
        console_.progress(share, "evaluating");
      });
    } catch (const Stopped&) {
      return false;
    }
    const double loss = evaluation.sums.loss / static_cast<double>(evaluation.sums.tokens);
    if (!std::isfinite(loss)) fail_unfit(loss);
    validation_ = loss;
    reporter_->evaluated(step_, evaluation, now() - began);
    return true;
  }

  // An update can leave a model that only the next step would find broken; such a one must not replace a good
  // checkpoint.
  void save() {
    if (!validation_) {
      const Watched watched(watchdog_, Work::kEvaluation, concat("a batch of the evaluation after step ", step_));
      const double loss = evaluator_.probe(*model_, *feeder_);
      if (!std::isfinite(loss)) fail_unfit(loss);
    }
    const CheckpointState state{.path = {},
                                .step = step_,
                                .tokens = tokens_,
                                .validation_loss = validation_,
                                .config = config_,
                                .tokenizer = train_set_.manifest().tokenizer,
                                .data = data_fingerprint(train_set_),
                                .threads = this_machine().threads,
                                .device = device_name(ctx_.device())};
    saver_.save(state, *model_, *optimizer_);
  }

  std::string last_checkpoint() const { return saver_.checkpoint().empty() ? "none" : saver_.checkpoint(); }

  [[noreturn]] void fail_unfit(double loss) const {
    const std::string tensor = model_->first_non_finite();
    fail("after step ", step_, " the validation loss is not finite (", loss,
         "); first bad tensor: ", tensor.empty() ? "none" : tensor, ". Nothing was saved; the last checkpoint is ",
         last_checkpoint());
  }

  TrainResult finish() {
    const bool whole = !stop_requested() && (validation_ || evaluate());
    if (!saver_.is_saved(step_)) save();
    console_.line(fmt::format("metrics: {}  checkpoint: {}", metrics_->path(), last_checkpoint()));
    const int signal = whole ? 0 : stop_signal();
    if (!whole)
      console_.line(fmt::format("stopped by signal {} after step {}{}", signal, step_,
                                saver_.checkpoint().empty() ? "" : "; --resume goes on from there"));
    return {.step = step_, .validation_loss = validation_, .checkpoint = saver_.checkpoint(), .signal = signal};
  }

  Console& console_;
  TrainOptions options_;
  TokenSet train_set_, val_set_;
  Config config_;
  std::string run_;
  Context ctx_;
  Evaluator evaluator_;
  std::unique_ptr<Loader> loader_;
  int64_t tokens_a_step_;
  std::unique_ptr<Gpt> model_;
  std::unique_ptr<Feeder> feeder_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Reporter> reporter_;
  std::optional<double> validation_;  // loss after step_, if it was evaluated
  int64_t step_ = 0, tokens_ = 0;
  Watchdog watchdog_;
  Saver saver_;
};

}  // namespace

TrainResult train(const Config& config, const TrainOptions& options, Console& console) {
  validate(config);
  return Trainer(config, options, console).run();
}

}  // namespace scfa
