#include "train/config.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <type_traits>

#include "data/json_file.h"

namespace scfa {

GptConfig model_after(const Config& config, int64_t done) {
  GptConfig model = config.model.at_stage(config.model.stage_after(done, config.train.steps));
  model.schedule.clear();
  return model;
}

void validate(const Config& c) {
  visit_fields(c, [](const char* section, const char* key, const auto& value, const char*, const FieldRule&) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(value)>, std::string>)
      require(is_plain_text(value), section, *section ? "." : "", key,
              ": must be UTF-8 text without control characters");
  });
  require(!c.name.empty() && c.name.find('/') == std::string::npos && c.name[0] != '.',
          "name: must be the plain name of a folder, not \"", abbreviate(c.name), "\"");
  require(c.train.batch_size % c.train.micro_batch_size == 0,
          "train.micro_batch_size: must divide train.batch_size = ", c.train.batch_size, ", not ",
          c.train.micro_batch_size);
  require(!c.data.directory.empty(), "data.directory: must name a folder made by prepare_data");
  require(c.schedule.schedule != "wsd" || c.schedule.warmup + c.schedule.decay <= 1,
          "schedule.decay: warmup + decay must be at most 1, not ", c.schedule.warmup + c.schedule.decay);
}

void validate_ranks(const Config& c, int ranks, bool on_gpu) {
  require(ranks == 1 || on_gpu || c.train.reduce_dtype == "f32",
          "train.reduce_dtype: bf16 is for GPUs; ranks on CPUs add up in f32");
  const int64_t batch = c.train.batch_size, at_once = c.train.micro_batch_size * ranks;
  if (batch % at_once == 0) return;
  int64_t micro = std::min(c.train.micro_batch_size, batch / ranks);
  while (micro > 0 && batch % (micro * ranks) != 0) --micro;
  fail("train.batch_size: ", batch, " sequences a step cannot be shared out over ", ranks,
       " ranks in micro-batches of ", c.train.micro_batch_size, "; ",
       micro > 0 ? concat("train.micro_batch_size ", micro, " would do, or ") : "", "train.batch_size ",
       (batch + at_once - 1) / at_once * at_once, micro > 0 ? "" : " would do");
}

namespace {

double cosine(double from, double to, double progress) {
  return to + (from - to) / 2 * (1 + std::cos(std::numbers::pi * std::clamp(progress, 0.0, 1.0)));
}

// PyTorch's OneCycleLR with cosine annealing: both phases end on a step, the peak on step warmup * steps - 1.
double one_cycle(const ScheduleConfig& s, double step, double steps) {
  const double peak = s.warmup * steps - 1, last = steps - 1;
  if (step <= peak && peak > 0) return cosine(s.initial_ratio, 1, step / peak);
  const double start = std::max(peak, 0.0);
  return cosine(1, s.final_ratio, last > start ? (step - start) / (last - start) : 1);
}

}  // namespace

double learning_rate(const ScheduleConfig& s, int64_t step, int64_t steps) {
  const auto at = static_cast<double>(step), total = static_cast<double>(steps);
  if (s.schedule == "onecycle") return s.lr * one_cycle(s, at, total);
  const double warmup = std::floor(s.warmup * total);
  if (at < warmup) return s.lr * (at + 1) / warmup;
  const double progress = total - 1 > warmup ? (at - warmup) / (total - 1 - warmup) : 1;
  if (s.schedule == "cosine") return s.lr * cosine(1, s.final_ratio, progress);
  if (s.schedule == "linear") return s.lr * (1 + (s.final_ratio - 1) * progress);
  if (s.schedule == "constant") return s.lr;
  require(s.schedule == "wsd", "schedule.schedule: \"", s.schedule, "\" is not known");
  const double decay = std::floor(s.decay * total), into = at - (total - decay) + 1;
  return into <= 0 ? s.lr : s.lr * (1 + (s.final_ratio - 1) * into / decay);
}

}  // namespace scfa
