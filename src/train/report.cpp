#include "train/report.h"

#include <spdlog/fmt/fmt.h>

#include <cmath>
#include <cstdlib>

#include "comm/collectives.h"
#include "comm/mpi.h"
#include "core/human.h"
#include "core/version.h"
#include "kernels/attention/attention.h"
#include "train/machine.h"
#include "train/replicas.h"

namespace scfa {

namespace {

double peak_flops_of(const Context& ctx) {
  return ctx.on_gpu() ? data_sheet_flops(gpu::properties().name) : 0;
}

}  // namespace

void describe_run(Console& console, Context& ctx, const Config& config, const TokenSet& train_set,
                  const Evaluator& evaluator, int ranks) {
  const double peak_flops = peak_flops_of(ctx);
  const Machine machine = this_machine();
  const ParameterTable table(config.model);
  const int64_t windows = count_windows(train_set, config.model.sequence_length);
  require(windows > 0, config.data.directory, ": its training split of ", train_set.tokens(),
          " tokens is shorter than one window of ", config.model.sequence_length, "; lower model.sequence_length");
  std::string attention;
  for (const AttentionPattern& pattern : config.model.attention)
    attention += (attention.empty() ? "" : " | ") + describe(pattern);
  console.line(fmt::format("scfa {} ({})  {}, {} threads", version(), git_commit(), machine.cpu, machine.threads));
  if (ctx.on_gpu()) {
    console.line(fmt::format("device: {}, bf16, {} for bf16 products by its data sheet", gpu::description(),
                             peak_flops > 0 ? format_count(peak_flops) + "FLOP/s" : "unknown FLOP/s"));
    console.line(describe_attention(ctx));
  } else if (kCudaBuild && config.device == "auto") {
    console.line("device: cpu, f32 (" + gpu::description() + ")");
  }
  console.line(fmt::format("model: {} parameters, {} layers, {} heads, width {}, {} tokens a sequence; attention {}",
                           format_count(static_cast<double>(table.count)), config.model.n_layer, config.model.n_head,
                           config.model.n_embd, config.model.sequence_length, attention));
  console.line(fmt::format("data: {}, {} training tokens ({}), {} of {} validation windows", config.data.directory,
                           format_count(static_cast<double>(train_set.tokens())), train_set.manifest().tokenizer,
                           evaluator.windows(), evaluator.available()));
  console.line(
      fmt::format("run: {} steps of {} tokens in {} micro-batches{}, {:.2f} epochs", config.train.steps,
                  format_count(static_cast<double>(config.train.batch_size * config.model.sequence_length)),
                  config.accumulation(ranks), ranks > 1 ? fmt::format(" on each of {} ranks", ranks) : "",
                  static_cast<double>(config.train.steps * config.train.batch_size) / static_cast<double>(windows)));
}

void describe_ranks(Console& console, const World& world, Device device) {
  if (world.size() > 1) {
    console.line("ranks: " + world.describe());
    if (world.launcher() == Launcher::kMpirun && std::getenv("OMPI_MCA_odls_base_sigkill_timeout") == nullptr)
      console.line(
          "  Ctrl-C leaves mpirun's processes a second; mpirun --mca odls_base_sigkill_timeout 90 leaves them time to "
          "save, and so does kill -USR2 of mpirun");
    return;
  }
  if (device == Device::kGpu && !nccl::built())
    return console.line("ranks: 1; for several GPUs: " + nccl::description());
  if (!mpi::built()) console.line("ranks: 1; for mpirun: " + mpi::description());
}

Reporter::Reporter(Console& console, Metrics& metrics, const Context& ctx, const Config& config, int64_t first_step,
                   int ranks)
    : console_(console),
      metrics_(metrics),
      ctx_(ctx),
      config_(config),
      first_step_(first_step),
      tokens_a_step_(config.train.batch_size * config.model.sequence_length),
      accumulation_(config.accumulation(ranks)),
      flops_a_token_(model_flops_per_token(config.model)),
      peak_flops_(peak_flops_of(ctx) * ranks) {
  if (!metrics.warning().empty()) console.warning(metrics.warning());
}

void Reporter::profile(int64_t step, double seconds, const ProfileTimes& times) {
  std::map<std::string, double> of_step;
  double attention = 0;
  for (const auto& [op, time] : times) {
    const bool once = time.category == Category::kOptimizer ||
                      time.category == Category::kCommunication;  // a step; the others in each micro-batch
    of_step[op] = once ? time.seconds : time.seconds * static_cast<double>(accumulation_);
    if (time.category == Category::kAttention) attention += of_step[op];
  }
  attention_share_ = attention / seconds;
  metrics_.profile(step, seconds, of_step);
}

void Reporter::step(StepRecord record) {
  record.tokens_per_second = static_cast<double>(tokens_a_step_) / record.seconds;
  record.flops_per_second = record.tokens_per_second * flops_a_token_;
  record.utilisation = peak_flops_ > 0 ? record.flops_per_second / peak_flops_ : 0;
  record.peak_memory = ctx_.on_gpu() ? gpu::peak_allocated() : peak_memory();
  metrics_.step(record);
  trained_seconds_ += record.seconds;
  interval_seconds_ += record.seconds;
  interval_data_wait_ += record.data_wait;
  ++interval_steps_;
  const int64_t total = config_.train.steps;
  const std::string left = format_duration(seconds_left(record.step));
  if (record.step % config_.log.every == 0 || record.step == total || record.step == first_step_ + 1)
    print_step(record, left);
  console_.progress(static_cast<double>(record.step) / static_cast<double>(total),
                    fmt::format("step {}/{}  loss {:.3f}  {} left", record.step, total, record.loss, left));
}

void Reporter::print_step(const StepRecord& record, const std::string& left) {
  const double rate = static_cast<double>(interval_steps_ * tokens_a_step_) / interval_seconds_;
  const double flops = rate * flops_a_token_;
  const std::string use = peak_flops_ > 0 ? fmt::format(" ({:.1f}%)", 100 * flops / peak_flops_) : "";
  console_.line(fmt::format(
      "step {:>{}}/{}  loss {:.4f}  lr {:.2e}  grad {:.3f}  {} tok/s  {}FLOP/s{}  {}wait {:.1f}%  mem {}  {} left",
      record.step, std::to_string(config_.train.steps).size(), config_.train.steps, record.loss, record.lr,
      record.grad_norm, format_count(rate), format_count(flops), use,
      attention_share_ > 0 ? fmt::format("attention {:.1f}%  ", 100 * attention_share_) : "",
      100 * interval_data_wait_ / interval_seconds_, format_bytes(record.peak_memory), left));
  interval_seconds_ = interval_data_wait_ = 0;
  interval_steps_ = 0;
}

double Reporter::seconds_left(int64_t done) const {
  const int64_t steps = config_.train.steps - done;
  const double a_step = trained_seconds_ / static_cast<double>(done - first_step_);
  const int64_t evaluations = 1 + (config_.eval.every > 0 ? steps / config_.eval.every : 0);
  return static_cast<double>(steps) * a_step + static_cast<double>(evaluations) * eval_seconds_;
}

void Reporter::evaluated(int64_t step, const Evaluation& evaluation, double seconds) {
  eval_seconds_ = seconds;
  metrics_.eval(step, evaluation, seconds);
  const auto tokens = static_cast<double>(evaluation.sums.tokens);
  const double loss = evaluation.sums.loss / tokens;
  console_.line(fmt::format("step {:>{}}/{}  validation loss {:.4f}  perplexity {:.3f}  accuracy {:.2f}%  {}", step,
                            std::to_string(config_.train.steps).size(), config_.train.steps, loss, std::exp(loss),
                            100 * evaluation.sums.correct / tokens, format_duration(seconds)));
  if (!is_dense_everywhere(evaluation)) console_.line("  " + describe_balance(evaluation));
}

}  // namespace scfa
