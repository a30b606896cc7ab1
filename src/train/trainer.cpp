#include "train/trainer.h"

#include <spdlog/fmt/fmt.h>

#include <chrono>
#include <cmath>
#include <filesystem>

#include "core/signals.h"
#include "data/folder_lock.h"
#include "train/agreement.h"
#include "train/evaluate.h"
#include "train/feeder.h"
#include "train/machine.h"
#include "train/optimizer.h"
#include "train/preflight.h"
#include "train/ranks.h"
#include "train/replicas.h"
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
  Trainer(World& world, const Config& config, const TrainOptions& options, Console& console)
      : world_(world),
        console_(console),
        options_(options),
        agreement_(world, console),
        train_set_(open_split(config, Split::kTrain)),
        val_set_(open_split(config, Split::kVal)),
        config_(complete(config, train_set_, choose_device(config.device))),
        run_(run_folder(config_)),
        ctx_(choose_device(config_.device)),
        evaluator_(val_set_, config_.eval.windows, config_.model.sequence_length, config_.train.micro_batch_size),
        accumulation_(config_.accumulation(options.plan_ranks > 0 ? options.plan_ranks : world.size())),
        tokens_a_step_(config_.train.batch_size * config_.model.sequence_length),
        watchdog_(
            {config_.train.watchdog_seconds, config_.train.stop_seconds}, [&console] { console.redraw_if_resized(); },
            [&world](const std::string& text) { world.end_all(text); }),
        saver_(run_, config_.checkpoint, console, watchdog_) {}

  TrainResult run() {
    compare_ranks(world_, config_, options_, data_fingerprint(train_set_) + " " + data_fingerprint(val_set_),
                  ctx_.device());
    const int ranks = options_.plan_ranks > 0 ? options_.plan_ranks : world_.size();
    world_.run_on_all("checking the run", [&] {
      describe_run(console_, ctx_, config_, train_set_, evaluator_, ranks);
      describe_ranks(console_, world_, ctx_.device());
      check_memory(ctx_, config_, ranks, console_);
      require(!options_.resume || !options_.overwrite,
              "--resume goes on with a run and --overwrite replaces it: give one");
    });
    std::unique_ptr<FolderLock> lock;
    std::optional<CheckpointState> checkpoint;
    world_.run_on_rank0("looking at the run's folder", [&] {
      if (options_.resume) require_run(run_);
      if (options_.dry_run) {
        FolderLock::check_free(run_);
        require_writable(run_);
      } else {
        lock = std::make_unique<FolderLock>(run_);
      }
      checkpoint = choose_start();
    });
    world_.run_on_all("checking the data", [&] {  // once on each machine
      if (world_.local_rank() == 0) verify_data(config_, train_set_, val_set_, console_);
    });
    if (options_.dry_run) {
      console_.line("dry run: everything is in order; nothing was allocated or written");
      return {};
    }
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
            .micro_steps = accumulation_,
            .rank = world_.rank(),
            .world = world_.size()};
  }

  // The checkpoint to go on from, if any. Checks only: what is there stays as it is.
  std::optional<CheckpointState> choose_start() {
    if (!options_.resume) {
      if (!options_.overwrite) require_no_run(run_);
      return {};
    }
    std::optional<CheckpointState> checkpoint = find_start(run_, options_.resume_from, console_);
    if (checkpoint)
      check_resumable(*checkpoint, config_, train_set_, device_name(ctx_.device()), world_.size(), console_);
    return checkpoint;
  }

  // Makes everything that takes memory, then the run's folder: until then an earlier run is as it was. Rank 0 alone
  // knows of a checkpoint.
  void start(const std::optional<CheckpointState>& checkpoint) {
    world_.run_on_all("allocating memory", [&] {
      store_ = std::make_unique<ParameterStore>(ctx_, config_.model,
                                                store_options(config_.train, world_.rank(), world_.size()));
      model_ = std::make_unique<Gpt>(*store_, config_.model, config_.train.micro_batch_size,
                                     static_cast<uint64_t>(config_.seed), Gpt::Mode::kTraining);
      optimizer_ = std::make_unique<Optimizer>(*store_, config_.optimizer);
      feeder_ = std::make_unique<Feeder>(ctx_, config_.train.micro_batch_size, config_.model.sequence_length);
      loader_ = std::make_unique<Loader>(train_set_, loader_options());
    });
    replicas_ = std::make_unique<Replicas>(world_, *store_, config_.train, options_.share_gpu);
    model_->set_observer(replicas_.get());
    if (world_.size() > 1) console_.line(replicas_->describe());
    load(checkpoint);
    world_.run_on_all("starting", [&] { check_stop("stopped before the first step; nothing was changed"); });
    world_.run_on_rank0("making the run's folder", [&] {
      if (options_.overwrite) remove_run_files(run_, console_);
      fs::create_directories(run_);
      metrics_ = std::make_unique<Metrics>(metrics_path(run_), config_, *model_, step_, world_.size());
      reporter_ = std::make_unique<Reporter>(console_, *metrics_, ctx_, config_, step_, world_.size());
    });
    hold(checkpoint ? checkpoint->path : "");
    world_.started(config_.train.watchdog_seconds);
    if (options_.resume && world_.is_rank0()) saver_.prune();  // a kill may have left it undone
  }

  void load(const std::optional<CheckpointState>& checkpoint) {
    struct Start {
      bool resumed = false, evaluated = false;
      int64_t step = 0, tokens = 0;
      double validation_loss = 0;
    } start;
    if (checkpoint)
      start = {true, checkpoint->validation_loss.has_value(), checkpoint->step, checkpoint->tokens,
               checkpoint->validation_loss.value_or(0)};
    start = world_.broadcast("where to start", start);
    if (!start.resumed) return store_->init(static_cast<uint64_t>(config_.seed));
    HostState state(*store_, true, world_.is_rank0());
    world_.run_on_rank0("reading the checkpoint", [&] { read_checkpoint(checkpoint->path, store_->table(), state); });
    replicas_->upload(state);
    step_ = start.step;
    tokens_ = start.tokens;
    if (start.evaluated) validation_ = start.validation_loss;
    if (checkpoint) console_.line(fmt::format("resumed from {} after step {}", checkpoint->path, step_));
  }

  void train_steps() {
    Decision next = agreement_.decide({}, false);
    while (step_ < config_.train.steps && !next.stop) {
      if (due(step_, config_.eval.every) && !validation_ && !evaluate()) return;
      if (next.save) save();
      const std::optional<Decision> after = train_step();
      if (!after) return;
      next = *after;
    }
  }

  // Nothing if a signal came between two micro-batches: their gradients are dropped, and the step has not been.
  std::optional<Decision> train_step() {
    const double began = now(), data_wait = loader_->data_wait_seconds();
    const bool profiled = due(step_ + 1, config_.log.every);
    const double lr = learning_rate(config_.schedule, step_, config_.train.steps);
    LossSums mine;
    double norm = 0;
    {
      const Watched watched(watchdog_, Work::kStep, concat("step ", step_ + 1));
      world_.set_place(concat("step ", step_ + 1));
      replicas_->measure_times(profiled);
      const bool whole = accumulate_gradients(profiled);
      if (whole) {
        optimizer_->measure([this](const Tensor& sums) { replicas_->all_reduce(sums); });
        optimizer_->update(lr, step_ + 1);
        replicas_->finish_step();
      }
      ctx_.profiler().collect(false);
      const World::Doing doing(world_, ctx_.on_gpu() ? "waiting for the GPU" : "adding up losses");
      mine = model_->take_losses();  // here the host waits for the device
      if (!whole) return {};
      norm = static_cast<double>(optimizer_->norm());
    }
    const Decision decision = decide_after(step_ + 1, mine);
    const double loss = decision.sums.loss / static_cast<double>(decision.sums.tokens);
    if (!std::isfinite(loss) || !std::isfinite(norm)) fail_non_finite(loss, norm, mine.loss);
    const double seconds = now() - began;
    ++step_;
    tokens_ += tokens_a_step_;
    validation_.reset();
    report_step({.step = step_,
                 .loss = loss,
                 .lr = lr,
                 .grad_norm = norm,
                 .tokens = tokens_,
                 .seconds = seconds,
                 .data_wait = loader_->data_wait_seconds() - data_wait},
                profiled);
    if (const std::string found = replicas_->note_step(seconds); !found.empty()) console_.line(found);
    if (due(step_, config_.train.check_replicas)) replicas_->compare(step_);
    return decision;
  }

  // Where all ranks say what their losses are, whether they were asked to stop or save, and whether it is time to save.
  Decision decide_after(int64_t step, const LossSums& mine) {
    const Watched watched(watchdog_, Work::kStep, concat("the end of step ", step));
    const bool asked = take_save_request();
    const bool save = world_.is_rank0() ? saver_.due(step, asked) : asked;
    return agreement_.decide(mine, save);
  }

  void report_step(const StepRecord& record, bool profiled) {
    replicas_->measure_times(false);
    if (!world_.is_rank0()) {
      if (profiled) ctx_.profiler().take();
      return;
    }
    if (profiled) reporter_->profile(record.step, record.seconds, ctx_.profiler().take());
    reporter_->step(record);
  }

  // profiled: collect times of the last micro-batch. False if a signal came before it.
  bool accumulate_gradients(bool profiled) {
    model_->zero_gradients();
    for (int64_t micro = 0; micro < accumulation_; ++micro) {
      if (micro > 0 && agreement_.stop()) return false;
      // On a CPU work has been done when a call returns, so each micro-batch is a sign of life.
      if (micro > 0 && !ctx_.on_gpu())
        watchdog_.begin(Work::kStep, concat("micro-batch ", micro + 1, " of step ", step_ + 1));
      const bool last = micro + 1 == accumulation_;
      const Batch batch = next_batch(micro);
      ctx_.profiler().collect(profiled && last);
      model_->forward(batch, true);
      if (last) replicas_->begin_step();
      model_->backward(batch);
    }
    replicas_->finish_gradients();
    return true;
  }

  Batch next_batch(int64_t micro) {
    const TokenBatch& tokens = loader_->batch(step_, micro);
    Batch batch = feeder_->put(tokens.inputs, tokens.targets, tokens.samples);
    batch.step = static_cast<uint32_t>(step_);
    batch.gradient_scale = 1.0f / static_cast<float>(tokens_a_step_);
    return batch;
  }

  // mine: the loss of this rank.
  [[noreturn]] void fail_non_finite(double loss, double norm, double mine) {
    // Once more a micro-batch at a time, so that the activations of the bad one are there to look at.
    for (int64_t micro = 0; !std::isfinite(mine) && micro < accumulation_; ++micro) {
      model_->forward(next_batch(micro), false);
      if (!std::isfinite(model_->take_losses().loss)) break;
    }
    const bool in_loss = !std::isfinite(loss);
    const std::string tensor = first_bad_tensor(in_loss == !std::isfinite(mine));
    throw CollectiveError(concat("step ", step_ + 1, ": the ", in_loss ? "loss" : "gradient norm", " is not finite (",
                                 in_loss ? loss : norm,
                                 "); first bad tensor: ", tensor.empty() ? "none; the sum itself overflowed" : tensor,
                                 std::isfinite(norm) ? "." : ". The step was not applied and",
                                 std::isfinite(norm) ? " No" : " no", " checkpoint was touched"));
  }

  // Of the first rank that has one and whose loss is at fault, if one is.
  std::string first_bad_tensor(bool look) {
    const std::vector<std::string> found =
        world_.all_gather("first bad tensor", look ? model_->first_non_finite() : std::string());
    for (size_t r = 0; r < found.size(); ++r)
      if (!found[r].empty()) return r == 0 ? found[r] : found[r] + " of " + world_.name_of(static_cast<int>(r));
    return {};
  }

  // False if a signal came meanwhile.
  bool evaluate() {
    const double began = now();
    const std::string what = concat("a batch of the evaluation after step ", step_);
    Evaluation evaluation;
    try {
      const Watched watched(watchdog_, Work::kEvaluation, what);
      world_.set_place(concat("the evaluation after step ", step_));
      evaluation = evaluator_.run(*model_, *feeder_, world_.rank(), world_.size(), [&](double share) {
        if (agreement_.stop()) throw Stopped();
        watchdog_.begin(Work::kEvaluation, what);
        console_.progress(share, "evaluating");
      });
      evaluation = merge(world_, evaluation);
    } catch (const Stopped&) {
      return false;
    }
    const double loss = evaluation.sums.loss / static_cast<double>(evaluation.sums.tokens);
    if (!std::isfinite(loss)) fail_unfit(loss);
    validation_ = loss;
    if (reporter_) reporter_->evaluated(step_, evaluation, now() - began);
    return true;
  }

  // An update can leave a model that only the next step would find broken; such a one must not replace a good
  // checkpoint.
  void save() {
    if (!validation_) {
      const Watched watched(watchdog_, Work::kEvaluation, concat("a batch of the evaluation after step ", step_));
      const double loss = world_.broadcast("loss before saving", evaluator_.probe(*model_, *feeder_));
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
                                .device = device_name(ctx_.device()),
                                .ranks = world_.size()};
    const Watched saving(watchdog_, Work::kSaving, concat("saving after step ", step_));
    world_.set_place(concat("saving after step ", step_));
    HostState values(*store_, true, world_.is_rank0());
    replicas_->download(values);
    world_.run_on_rank0("saving", [&] { saver_.save(state, store_->table(), values); });
    hold(saver_.checkpoint());
  }

  // All ranks take the run for saved at this step; path is rank 0's to know.
  void hold(const std::string& path) {
    const std::string checkpoint = world_.all_gather("checkpoint", path).front();
    saver_.hold(step_, checkpoint);
    world_.set_checkpoint(checkpoint);
  }

  std::string last_checkpoint() const { return saver_.checkpoint().empty() ? "none" : saver_.checkpoint(); }

  [[noreturn]] void fail_unfit(double loss) {
    const std::string tensor = first_bad_tensor(true);
    throw CollectiveError(concat("after step ", step_, " the validation loss is not finite (", loss,
                                 "); first bad tensor: ", tensor.empty() ? "none" : tensor,
                                 ". Nothing was saved; the last checkpoint is ", last_checkpoint()));
  }

  TrainResult finish() {
    const bool whole = !agreement_.stop() && (validation_ || evaluate());
    if (!saver_.is_saved(step_)) save();
    if (metrics_) console_.line(fmt::format("metrics: {}  checkpoint: {}", metrics_->path(), last_checkpoint()));
    const int signal = whole ? 0 : stop_signal();
    if (!whole)
      console_.line(fmt::format("stopped by signal {} after step {}{}", signal, step_,
                                saver_.checkpoint().empty() ? "" : "; --resume goes on from there"));
    return {.step = step_, .validation_loss = validation_, .checkpoint = saver_.checkpoint(), .signal = signal};
  }

  World& world_;
  Console& console_;
  TrainOptions options_;
  Agreement agreement_;
  TokenSet train_set_, val_set_;
  Config config_;
  std::string run_;
  Context ctx_;
  Evaluator evaluator_;
  std::unique_ptr<Loader> loader_;
  int64_t accumulation_, tokens_a_step_;
  std::unique_ptr<ParameterStore> store_;
  std::unique_ptr<Gpt> model_;
  std::unique_ptr<Feeder> feeder_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<Replicas> replicas_;
  std::unique_ptr<Metrics> metrics_;    // of rank 0
  std::unique_ptr<Reporter> reporter_;  // likewise
  std::optional<double> validation_;    // loss after step_, if it was evaluated
  int64_t step_ = 0, tokens_ = 0;
  Watchdog watchdog_;
  Saver saver_;
};

}  // namespace

TrainResult train(const Config& config, const TrainOptions& options, Console& console, World& world) {
  std::unique_ptr<Trainer> trainer;
  world.run_on_all("setting up", [&] {
    validate(config);
    const Device device = choose_device(config.device);
    use_gpu_of_rank(world, device);
    validate_ranks(config, options.plan_ranks > 0 ? options.plan_ranks : world.size(), device == Device::kGpu);
    trainer = std::make_unique<Trainer>(world, config, options, console);
  });
  TrainResult result;
  world.guard([&] { result = trainer->run(); });
  return result;
}

TrainResult train(const Config& config, const TrainOptions& options, Console& console) {
  World alone;
  return train(config, options, console, alone);
}

}  // namespace scfa
