#include "train/report.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/human.h"
#include "train/machine.h"

namespace scfa {

Reporter::Reporter(Console& console, std::unique_ptr<Metrics> metrics, const Context& ctx, const Config& config,
                   int64_t started_at, int ranks)
    : console_(console),
      metrics_(std::move(metrics)),
      ctx_(ctx),
      config_(config),
      policy_(config),
      started_at_(started_at),
      peak_flops_(peak_flops(ctx.device()) * ranks) {
  for (int64_t stage = 0; stage < config.model.stages(); ++stage)
    flops_per_step_.push_back(static_cast<double>(config.tokens_per_step()) *
                              model_flops_per_token(config.model.at_stage(stage)));
  if (metrics_ && !metrics_->warning().empty()) console.warning(metrics_->warning());
}

void Reporter::step(StepRecord record, const std::optional<StepTimes>& times) {
  if (!metrics_) return;
  if (times) {
    attention_share_ = times->attention / record.seconds;
    metrics_->profile(record.step, record.seconds, times->attention, times->seconds);
  }
  record.tokens_per_second = static_cast<double>(config_.tokens_per_step()) / record.seconds;
  const double flops = flops_per_step_[static_cast<size_t>(config_.model.stage_after(record.step, policy_.steps()))];
  record.flops_per_second = flops / record.seconds;
  record.utilisation = peak_flops_ > 0 ? record.flops_per_second / peak_flops_ : 0;
  record.peak_memory = ctx_.on_gpu() ? gpu::peak_allocated() : peak_memory();
  metrics_->step(record);
  trained_seconds_ += record.seconds;
  trained_flops_ += flops;
  interval_.seconds += record.seconds;
  interval_.data_wait += record.data_wait;
  interval_.flops += flops;
  ++interval_.steps;
  const int64_t total = policy_.steps();
  const std::string left = format_duration(seconds_left(record.step));
  if (policy_.prints(record.step, started_at_)) print_step(record, left);
  console_.progress(static_cast<double>(record.step) / static_cast<double>(total),
                    fmt::format("step {}/{}  loss {:.3f}  {} left", record.step, total, record.loss, left));
}

void Reporter::print_step(const StepRecord& record, const std::string& left) {
  const double rate = static_cast<double>(interval_.steps * config_.tokens_per_step()) / interval_.seconds;
  const double flops = interval_.flops / interval_.seconds;
  const std::string use = peak_flops_ > 0 ? fmt::format(" ({:.1f}%)", 100 * flops / peak_flops_) : "";
  console_.line(fmt::format(
      "step {:>{}}/{}  loss {:.4f}  lr {:.2e}  grad {:.3f}  {} tok/s  {}FLOP/s{}  {}wait {:.1f}%  mem {}  {} left",
      record.step, std::to_string(policy_.steps()).size(), policy_.steps(), record.loss, record.lr, record.grad_norm,
      format_count(rate), format_count(flops), use,
      attention_share_ > 0 ? fmt::format("attention {:.1f}%  ", 100 * attention_share_) : "",
      100 * interval_.data_wait / interval_.seconds, format_bytes(record.peak_memory), left));
  interval_ = {};
}

// Steps to come take as long as those so far, in proportion to their FLOPs.
double Reporter::seconds_left(int64_t done) const {
  double flops = 0;
  for (int64_t stage = config_.model.stages() - 1, end = policy_.steps(); stage >= 0 && end > done; --stage) {
    const int64_t begin = std::max(done, config_.model.first_step(stage, policy_.steps()));
    if (begin >= end) continue;
    flops += static_cast<double>(end - begin) * flops_per_step_[static_cast<size_t>(stage)];
    end = begin;
  }
  return flops * trained_seconds_ / trained_flops_ +
         static_cast<double>(policy_.evaluations_after(done)) * eval_seconds_;
}

void Reporter::evaluated(int64_t step, const Evaluation& evaluation, double seconds) {
  if (!metrics_) return;
  eval_seconds_ = seconds;
  metrics_->eval(step, evaluation, seconds);
  const auto tokens = static_cast<double>(evaluation.sums.tokens);
  const double loss = evaluation.sums.loss / tokens;
  console_.line(fmt::format("step {:>{}}/{}  validation loss {:.4f}  perplexity {:.3f}  accuracy {:.2f}%  {}", step,
                            std::to_string(policy_.steps()).size(), policy_.steps(), loss, std::exp(loss),
                            100 * evaluation.sums.correct / tokens, format_duration(seconds)));
  if (!is_dense_everywhere(evaluation)) console_.line("  " + describe_balance(evaluation));
}

void Reporter::finished(int64_t step, const std::string& checkpoint, int signal) {
  if (!metrics_) return;
  console_.line(fmt::format("metrics: {}  checkpoint: {}", metrics_->path(), checkpoint.empty() ? "none" : checkpoint));
  if (signal != 0)
    console_.line(fmt::format("stopped by signal {} after step {}{}", signal, step,
                              checkpoint.empty() ? "" : "; --resume goes on from there"));
}

}  // namespace scfa
