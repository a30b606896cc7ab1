#include "train/trainer.h"

#include <spdlog/fmt/fmt.h>

#include <chrono>
#include <cmath>
#include <filesystem>

#include "core/human.h"
#include "core/signals.h"
#include "core/version.h"
#include "kernels/attention/attention.h"
#include "train/config_io.h"
#include "train/evaluate.h"
#include "train/feeder.h"
#include "train/machine.h"
#include "train/preflight.h"

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
        ctx_(choose_device(config_.device)),
        evaluator_(val_set_, config_.eval.windows, config_.model.sequence_length, config_.train.micro_batch_size),
        run_((fs::path(config_.runs) / config_.name).string()),
        tokens_a_step_(config_.train.batch_size * config_.model.sequence_length),
        flops_a_token_(model_flops_per_token(config_.model)) {}

  TrainResult run() {
    describe();
    check_memory(ctx_, config_, console_);
    const std::optional<CheckpointState> checkpoint = choose_start();
    if (options_.dry_run) {
      console_.line("dry run: everything is in order; nothing was allocated or written");
      return {};
    }
    start(checkpoint);
    for (; step_ < config_.train.steps && !stop_requested(); ++step_) {
      if (due(step_, config_.eval.every) && !evaluate()) break;
      const double began = now(), waited = loader_->waited_seconds();
      const bool profiled = due(step_ + 1, config_.log.every);
      accumulate_gradients(profiled);
      const double lr = learning_rate(config_.schedule, step_, config_.train.steps);
      ctx_.collect_times(profiled);
      optimizer_->measure(*model_);
      optimizer_->update(*model_, lr, step_ + 1);
      ctx_.collect_times(false);
      const LossSums sums = model_->take_losses();  // here the host waits for the device
      const double loss = sums.loss / static_cast<double>(sums.tokens);
      const auto norm = static_cast<double>(optimizer_->norm());
      if (!std::isfinite(loss) || !std::isfinite(norm)) fail_non_finite(loss, norm);
      const double seconds = now() - began;
      if (profiled) profile(seconds);
      report({.step = step_ + 1,
              .loss = loss,
              .lr = lr,
              .grad_norm = norm,
              .tokens = (step_ + 1) * tokens_a_step_,
              .seconds = seconds,
              .waited = loader_->waited_seconds() - waited});
      if (due(step_ + 1, config_.checkpoint.every) && step_ + 1 < config_.train.steps) save(step_ + 1);
    }
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

  void describe() {
    const Machine machine = this_machine();
    const ParameterTable table(config_.model);
    const int64_t windows = count_windows(train_set_, config_.model.sequence_length);
    require(windows > 0, config_.data.directory, ": its training split of ", train_set_.tokens(),
            " tokens is shorter than one window of ", config_.model.sequence_length, "; lower model.sequence_length");
    std::string attention;
    for (const AttentionPattern& pattern : config_.model.attention)
      attention += (attention.empty() ? "" : " | ") + scfa::describe(pattern);
    console_.line(fmt::format("scfa {} ({})  {}, {} threads", version(), git_commit(), machine.cpu, machine.threads));
    if (ctx_.on_gpu()) {
      console_.line(fmt::format("device: {}, bf16, {} for bf16 products by its data sheet", gpu::description(),
                                peak_flops_ > 0 ? format_count(peak_flops_) + "FLOP/s" : "unknown FLOP/s"));
      console_.line(describe_attention(ctx_));
    } else if (kCudaBuild && config_.device == "auto") {
      console_.line("device: cpu, f32 (" + gpu::description() + ")");
    }
    console_.line(fmt::format("model: {} parameters, {} layers, {} heads, width {}, {} tokens a sequence; attention {}",
                              format_count(static_cast<double>(table.count)), config_.model.n_layer,
                              config_.model.n_head, config_.model.n_embd, config_.model.sequence_length, attention));
    console_.line(fmt::format("data: {}, {} training tokens ({}), {} of {} validation windows", config_.data.directory,
                              format_count(static_cast<double>(train_set_.tokens())), train_set_.manifest().tokenizer,
                              evaluator_.windows(), evaluator_.available()));
    console_.line(fmt::format(
        "run: {} steps of {} tokens in {} micro-batches, {:.2f} epochs", config_.train.steps,
        format_count(static_cast<double>(tokens_a_step_)), config_.accumulation(),
        static_cast<double>(config_.train.steps * config_.train.batch_size) / static_cast<double>(windows)));
  }

  // The checkpoint to go on from, if any. Checks only: what is there stays as it is.
  std::optional<CheckpointState> choose_start() {
    require(!options_.resume || !options_.overwrite,
            "--resume goes on with a run and --overwrite replaces it: give one");
    if (!options_.resume) {
      require(options_.overwrite || earlier_files().empty(), run_, ": holds a run already; --resume goes on with it, ",
              "--overwrite replaces it, --name NAME starts another");
      return {};
    }
    std::vector<std::string> rejected;
    std::optional<CheckpointState> checkpoint = newest_checkpoint(run_, Verify::kAll, &rejected);
    for (const std::string& why : rejected) console_.warning(why);
    require(checkpoint || rejected.empty(), run_,
            ": none of its checkpoints can be used; --overwrite in place of --resume starts anew");
    if (checkpoint)
      check_resumable(*checkpoint, config_, train_set_, device_name(ctx_.device()), console_);
    else
      console_.line(run_ + ": has no checkpoint yet, starting from the beginning");
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
      checkpoint_ = checkpoint->path;
      console_.line(fmt::format("resumed from {} after step {}", checkpoint_, step_));
    } else {
      model_->init(static_cast<uint64_t>(config_.seed));
    }
    feeder_ = std::make_unique<Feeder>(ctx_, config_.train.micro_batch_size, config_.model.sequence_length);
    loader_ = std::make_unique<Loader>(train_set_, loader_options());
    if (options_.overwrite)
      for (const std::string& file : earlier_files()) fs::remove_all(file);
    fs::create_directories(run_);
    metrics_ = std::make_unique<Metrics>(metrics_path(), config_, *model_, step_);
    first_step_ = step_;
  }

  std::string metrics_path() const { return (fs::path(run_) / "metrics.jsonl").string(); }

  // What a run of this name has written, and nothing else that lies there.
  std::vector<std::string> earlier_files() const {
    std::vector<std::string> files = checkpoint_folders(run_);
    if (fs::exists(metrics_path())) files.push_back(metrics_path());
    return files;
  }

  // profiled: collect times of the first micro-batch.
  void accumulate_gradients(bool profiled) {
    model_->zero_gradients();
    for (int64_t micro = 0; micro < config_.accumulation(); ++micro) {
      const Batch batch = next_batch(micro);
      ctx_.collect_times(profiled && micro == 0);
      model_->forward(batch, true);
      model_->backward(batch);
    }
  }

  void profile(double seconds) {
    std::map<std::string, double> times = ctx_.take_times();
    double attention = 0;
    for (auto& [op, time] : times) {
      const bool once = op == "gradient_norm" || op == "adamw";  // a step; the others in each micro-batch
      if (!once) time *= static_cast<double>(config_.accumulation());
      for (const char* part : {"attention_", "draw_projections", "normalise_keys", "assign_segments", "build_segments"})
        if (op.starts_with(part)) attention += time;
    }
    attention_share_ = attention / seconds;
    metrics_->profile(step_ + 1, seconds, times);
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

  void report(StepRecord record) {
    record.tokens_per_second = static_cast<double>(tokens_a_step_) / record.seconds;
    record.flops_per_second = record.tokens_per_second * flops_a_token_;
    record.utilisation = peak_flops_ > 0 ? record.flops_per_second / peak_flops_ : 0;
    record.peak_memory = ctx_.on_gpu() ? gpu::peak_allocated() : peak_memory();
    metrics_->step(record);
    trained_seconds_ += record.seconds;
    interval_seconds_ += record.seconds;
    interval_waited_ += record.waited;
    ++interval_steps_;
    const int64_t total = config_.train.steps;
    const std::string left = format_duration(seconds_left(record.step));
    if (due(record.step, config_.log.every) || record.step == total || record.step == first_step_ + 1) {
      const double rate = static_cast<double>(interval_steps_ * tokens_a_step_) / interval_seconds_;
      const double flops = rate * flops_a_token_;
      const std::string use = peak_flops_ > 0 ? fmt::format(" ({:.1f}%)", 100 * flops / peak_flops_) : "";
      console_.line(fmt::format(
          "step {:>{}}/{}  loss {:.4f}  lr {:.2e}  grad {:.3f}  {} tok/s  {}FLOP/s{}  {}wait {:.1f}%  mem {}  {} left",
          record.step, std::to_string(total).size(), total, record.loss, record.lr, record.grad_norm,
          format_count(rate), format_count(flops), use,
          attention_share_ > 0 ? fmt::format("attention {:.1f}%  ", 100 * attention_share_) : "",
          100 * interval_waited_ / interval_seconds_, format_bytes(record.peak_memory), left));
      interval_seconds_ = interval_waited_ = 0;
      interval_steps_ = 0;
    }
    console_.progress(static_cast<double>(record.step) / static_cast<double>(total),
                      fmt::format("step {}/{}  loss {:.3f}  {} left", record.step, total, record.loss, left));
  }

  double seconds_left(int64_t done) const {
    const int64_t steps = config_.train.steps - done;
    const double a_step = trained_seconds_ / static_cast<double>(done - first_step_);
    const int64_t evaluations = 1 + (config_.eval.every > 0 ? steps / config_.eval.every : 0);
    return static_cast<double>(steps) * a_step + static_cast<double>(evaluations) * eval_seconds_;
  }

  // False if a signal came meanwhile.
  bool evaluate() {
    const double began = now();
    Evaluation evaluation;
    try {
      evaluation = evaluator_.run(*model_, *feeder_, [&](double share) {
        if (stop_requested()) throw Stopped();
        console_.progress(share, "evaluating");
      });
    } catch (const Stopped&) {
      return false;
    }
    validation_ = evaluation.sums;
    if (!std::isfinite(validation_.loss)) fail_unfit(step_, validation_.loss);
    eval_seconds_ = now() - began;
    metrics_->eval(step_, evaluation, eval_seconds_);
    const double loss = validation_.loss / static_cast<double>(validation_.tokens);
    console_.line(fmt::format("step {:>{}}/{}  validation loss {:.4f}  perplexity {:.3f}  accuracy {:.2f}%  {}", step_,
                              std::to_string(config_.train.steps).size(), config_.train.steps, loss, std::exp(loss),
                              100 * validation_.hits / static_cast<double>(validation_.tokens),
                              format_duration(eval_seconds_)));
    if (!spread_is_plain(evaluation)) console_.line("  " + describe_spread(evaluation));
    return true;
  }

  // An update can leave a model that only the next step would find broken; such a one must not replace a good
  // checkpoint.
  void save(int64_t step) {
    const double loss = evaluator_.probe(*model_, *feeder_);
    if (!std::isfinite(loss)) fail_unfit(step, loss);
    const CheckpointState state{.path = {},
                                .step = step,
                                .config = config_,
                                .tokenizer = train_set_.manifest().tokenizer,
                                .data = data_fingerprint(train_set_),
                                .threads = this_machine().threads,
                                .device = device_name(ctx_.device())};
    checkpoint_ = save_checkpoint(run_, state, *model_, *optimizer_);
    console_.line("saved " + checkpoint_);
  }

  [[noreturn]] void fail_unfit(int64_t step, double loss) const {
    const std::string tensor = model_->first_non_finite();
    fail("after step ", step, " the validation loss is not finite (", loss,
         "); first bad tensor: ", tensor.empty() ? "none" : tensor, ". Nothing was saved; the last checkpoint is ",
         checkpoint_.empty() ? "none" : checkpoint_);
  }

  TrainResult finish() {
    const bool whole = !stop_requested() && evaluate();
    if (step_ > first_step_) save(step_);
    const int signal = stop_signal();
    console_.line(
        fmt::format("metrics: {}  checkpoint: {}", metrics_->path(), checkpoint_.empty() ? "none" : checkpoint_));
    if (!whole)
      console_.line(fmt::format("stopped by signal {} after step {}; --resume goes on from there", signal, step_));
    return {.step = step_, .validation = validation_, .checkpoint = checkpoint_, .signal = whole ? 0 : signal};
  }

  Console& console_;
  TrainOptions options_;
  TokenSet train_set_, val_set_;
  Config config_;
  Context ctx_;
  Evaluator evaluator_;
  std::unique_ptr<Loader> loader_;
  std::string run_, checkpoint_;
  int64_t tokens_a_step_;
  double flops_a_token_;
  double peak_flops_ = ctx_.on_gpu() ? data_sheet_flops(gpu::properties().name) : 0;
  double attention_share_ = 0;  // of the step last profiled
  std::unique_ptr<Gpt> model_;
  std::unique_ptr<Feeder> feeder_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<Metrics> metrics_;
  LossSums validation_;
  int64_t step_ = 0, first_step_ = 0, interval_steps_ = 0;
  double trained_seconds_ = 0, interval_seconds_ = 0, interval_waited_ = 0, eval_seconds_ = 0;
};

}  // namespace

TrainResult train(const Config& config, const TrainOptions& options, Console& console) {
  validate(config);
  return Trainer(config, options, console).run();
}

}  // namespace scfa
