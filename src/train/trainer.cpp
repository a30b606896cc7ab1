#include "train/trainer.h"

#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "core/signals.h"
#include "data/folder_lock.h"
#include "train/autotune.h"
#include "train/machine.h"
#include "train/non_finite.h"
#include "train/preflight.h"
#include "train/ranks.h"
#include "train/report.h"
#include "train/run_control.h"
#include "train/run_folder.h"
#include "train/run_inputs.h"
#include "train/saver.h"
#include "train/start.h"
#include "train/step_policy.h"
#include "train/train_step.h"
#include "train/validation.h"

namespace scfa {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// A run, from its checks to its end. Every rank has one.
class Trainer {
 public:
  Trainer(World& world, const Config& config, const TrainOptions& options, Console& console)
      : control_(world, console, config.train),
        options_(options),
        inputs_(config),
        policy_(inputs_.config),
        saver_(run_folder(inputs_.config), inputs_.config.checkpoint, control_) {}

  TrainResult run() {
    check_inputs(control_, inputs_, options_);
    std::unique_ptr<FolderLock> lock;
    Start begin;
    control_.world.run_on_rank0("looking at the run's folder", [&] {
      lock = check_folder();
      begin = choose_start(options_, inputs_, control_);
    });
    check_text(control_, inputs_);
    if (options_.dry_run) {
      const int ranks = planned_ranks(options_, control_.world);
      control_.console.line(describe_limits(inputs_.ctx, config(), ranks, inputs_.recompute));
      control_.console.line("dry run: everything is in order; nothing was allocated or written");
      return {};
    }
    start(begin);
    train_steps();
    return finish();
  }

 private:
  const Config& config() const { return inputs_.config; }

  // Takes the folder's lock, unless this is a dry run.
  std::unique_ptr<FolderLock> check_folder() {
    const std::string run = run_folder(config());
    if (options_.resume) require_run(run);
    if (!options_.dry_run) return std::make_unique<FolderLock>(run);
    FolderLock::check_free(run);
    require_writable(run);
    return {};
  }

  // Makes everything that takes memory, then the run's folder: until then an earlier run is as it was.
  void start(const Start& begin) {
    const std::optional<CheckpointState>& checkpoint = begin.checkpoint;
    World& world = control_.world;
    memory_ = allocate_training(world, inputs_.ctx, config(), inputs_.train_set, inputs_.recompute, options_.share_gpu);
    if (world.size() > 1) control_.console.line(memory_->replicas->describe());
    state_ = load_start(control_, *memory_, begin, config());
    if (checkpoint && state_.step >= config().train.steps)
      control_.console.line(concat("all ", config().train.steps, " steps of the run are done; --train.steps N with a ",
                                   "larger N goes on"));
    memory_->model.set_stage(config().model.stage_after(state_.step, config().train.steps));
    tune(checkpoint ? checkpoint->gemms : "");
    step_ = std::make_unique<TrainStep>(control_, config(), *memory_);
    world.run_on_all("starting", [] { check_stop("stopped before the first step; nothing was changed"); });
    std::unique_ptr<Metrics> metrics;
    world.run_on_rank0("making the run's folder", [&] { metrics = make_folder(begin); });
    reporter_ = std::make_unique<Reporter>(control_.console, std::move(metrics), inputs_.ctx, config(), state_.step,
                                           world.size());
    saver_.mark_saved(state_.step, checkpoint ? checkpoint->path : "");
    world.started(config().train.watchdog_seconds);
    if (options_.resume && world.is_rank0()) saver_.prune();  // a kill may have left it undone
  }

  // known: of rank 0's checkpoint. Rank 0 chooses first and the others take the same; no collective is under way yet,
  // so they can wait while it measures.
  void tune(const std::string& known) {
    World& world = control_.world;
    if (!config().train.autotune) return;
    memory_->model.set_observer(nullptr);
    AutotunedGemms done;
    world.run_on_rank0("choosing algorithms", [&] { done = autotune_gemms(memory_->model, memory_->feeder, known); });
    gemms_ = world.all_gather("algorithms of rank 0", done.choices).front();
    if (!world.is_rank0()) take_gemm_algorithms(memory_->model.context(), gemms_);
    memory_->model.set_observer(memory_->replicas.get());
    if (!done.line.empty()) control_.console.line(done.line);
  }

  std::unique_ptr<Metrics> make_folder(const Start& begin) {
    const std::string run = run_folder(config());
    if (options_.overwrite) remove_run_files(run, control_.console);
    std::filesystem::create_directories(run);
    return std::make_unique<Metrics>(metrics_path(run), config(), memory_->model, state_.step, control_.world.size(),
                                     begin.init_from ? begin.init_from->path : "");
  }

  // ---- the steps

  void train_steps() {
    Decision next = control_.agreement.decide({}, false);
    while (policy_.trains(state_.step, next.stop)) {
      if (policy_.evaluates(state_) && !evaluate()) return;
      if (next.save) save();
      const std::optional<Decision> after = train_step();
      if (!after) return;
      next = *after;
    }
  }

  // Nothing if a signal came before the step was whole. Where steps run ahead, this one has been launched and the one
  // before it finished; where the model is looked at next, both have been finished.
  std::optional<Decision> train_step() {
    const Clock::time_point began = Clock::now();
    const bool profiled = policy_.profiles(state_.step + 1);
    if (profiled || stage() != memory_->model.stage()) finish_steps(0);
    enter_stage();
    if (!step_->launch(state_.step, profiled)) {
      finish_steps(0);
      return {};
    }
    state_.advance(config().tokens_per_step());
    if (!step_->runs_ahead()) {
      StepResult result = step_->finish();
      const Decision decision = decide_after(result.step, result.sums);
      result.seconds = seconds_since(began);
      finished(result, decision.sums);
      return decision;
    }
    finish_steps(profiled ? 0 : 1);
    const Decision decision = decide_after(state_.step, {});
    const bool goes_on = policy_.trains(state_.step, decision.stop) && !decision.save && !policy_.evaluates(state_);
    if (!goes_on) finish_steps(0);
    return decision;
  }

  // Until so many are still in flight.
  void finish_steps(int64_t left) {
    while (step_->in_flight() > left) {
      const StepResult result = step_->finish();
      finished(result, result.sums);
    }
  }

  // sums: of all ranks.
  void finished(const StepResult& result, const LossSums& sums) {
    const double loss = sums.loss / static_cast<double>(sums.tokens);
    require_finite(result, loss);
    reporter_->step({.step = result.step,
                     .loss = loss,
                     .lr = result.lr,
                     .grad_norm = result.grad_norm,
                     .tokens = state_.tokens - (state_.step - result.step) * config().tokens_per_step(),
                     .seconds = result.seconds,
                     .data_wait = result.data_wait},
                    step_->take_times());
    const std::string found = memory_->replicas->note_step(result.seconds);
    if (!found.empty()) control_.console.line(found);
    if (policy_.compares_replicas(result.step)) memory_->replicas->compare(result.step);
  }

  int64_t stage() const { return config().model.stage_of(state_.step, config().train.steps); }  // of the next step

  // An evaluation after the last step of a stage has still the patterns of that stage, and so has a checkpoint.
  void enter_stage() {
    if (!memory_->model.set_stage(stage())) return;
    control_.console.line(
        concat("from step ", state_.step + 1, " on attention is ", describe_patterns(memory_->model.config())));
  }

  // Where all ranks say what their losses are, whether they were asked to stop or save, and whether it is time to save.
  Decision decide_after(int64_t step, const LossSums& mine) {
    const Watched watched(control_.watchdog, Work::kStep, concat("the end of step ", step));
    const bool asked = take_save_request();
    const bool save = control_.world.is_rank0() ? policy_.saves(step, saver_.last(), asked) : asked;
    return control_.agreement.decide(mine, save);
  }

  void require_finite(const StepResult& result, double loss) {
    if (std::isfinite(loss) && std::isfinite(result.grad_norm)) return;
    step_->repeat(result);
    fail_step(control_.world, memory_->model, result.step, loss, result.grad_norm, result.sums.loss);
  }

  // ---- between steps

  // False if a signal came meanwhile.
  bool evaluate() {
    const Clock::time_point began = Clock::now();
    const std::optional<Evaluation> evaluation = validate_model(control_, inputs_.evaluator, *memory_, state_.step);
    if (!evaluation) return false;
    const double loss = evaluation->sums.loss / static_cast<double>(evaluation->sums.tokens);
    require_fit(loss);
    state_.validation_loss = loss;
    reporter_->evaluated(state_.step, *evaluation, seconds_since(began));
    return true;
  }

  // An update can leave a model that only the next step would find broken; such a one must not replace a good
  // checkpoint.
  void save() {
    if (!state_.validation_loss) require_fit(probe_model(control_, inputs_.evaluator, *memory_, state_.step));
    saver_.save({.path = {},
                 .step = state_.step,
                 .tokens = state_.tokens,
                 .validation_loss = state_.validation_loss,
                 .config = config(),
                 .tokenizer = inputs_.train_set.manifest().tokenizer,
                 .data = data_fingerprint(inputs_.train_set),
                 .threads = this_machine().threads,
                 .device = device_name(inputs_.ctx.device()),
                 .ranks = control_.world.size(),
                 .gemms = gemms_},
                *memory_);
  }

  void require_fit(double loss) {
    if (!std::isfinite(loss)) fail_evaluation(control_.world, memory_->model, state_.step, loss, saver_.checkpoint());
  }

  TrainResult finish() {
    const bool whole = !control_.agreement.stop() && (state_.validation_loss || evaluate());
    if (!saver_.is_saved(state_.step)) save();
    const int signal = whole ? 0 : stop_signal();
    reporter_->finished(state_.step, saver_.checkpoint(), signal);
    return {.step = state_.step,
            .validation_loss = state_.validation_loss,
            .checkpoint = saver_.checkpoint(),
            .signal = signal};
  }

  RunControl control_;
  const TrainOptions options_;
  RunInputs inputs_;
  const StepPolicy policy_;
  Saver saver_;
  TrainingState state_;
  std::string gemms_;  // algorithms of GEMMs, the same on all ranks
  // From start() on:
  std::unique_ptr<TrainingMemory> memory_;
  std::unique_ptr<TrainStep> step_;
  std::unique_ptr<Reporter> reporter_;
};

}  // namespace

TrainResult train(const Config& config, const TrainOptions& options, Console& console, World& world) {
  std::unique_ptr<Trainer> trainer;
  world.run_on_all("setting up", [&] {
    validate(config);
    const Device device = choose_device(config.device);
    use_gpu_of_rank(world, device);
    validate_ranks(config, planned_ranks(options, world), device == Device::kGpu);
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
