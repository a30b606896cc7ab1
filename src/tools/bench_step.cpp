#include "tools/bench_step.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <optional>
#include <utility>

#include "core/human.h"
#include "core/program.h"
#include "core/signals.h"
#include "data/manifest.h"
#include "data/table_file.h"
#include "kernels/linear/gemm.h"
#include "tools/bench_timer.h"
#include "train/autotune.h"
#include "train/config_io.h"
#include "train/feeder.h"
#include "train/machine.h"
#include "train/optimizer.h"
#include "train/preflight.h"
#include "train/random_tokens.h"
#include "train/replicas.h"
#include "train/step_launcher.h"
#include "train/step_outputs.h"

namespace scfa {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kWarmUps = 4;  // each of the feeder's two places once launch by launch, and once captured

void print_profile(const ProfileTimes& profile) {
  std::vector<std::pair<double, std::string>> ops;
  double total = 0;
  for (const auto& [name, time] : profile) {
    ops.emplace_back(time.seconds, name);
    total += time.seconds;
  }
  std::sort(ops.rbegin(), ops.rend());
  for (const auto& [seconds, name] : ops)
    std::cout << printed("  %-26s %9.3f ms %6.1f %%\n", name.c_str(), seconds * 1e3, seconds / total * 100);
  std::cout << printed("  %-26s %9.3f ms\n", "ops", total * 1e3);
}

// Of the prepared text in a folder, if there is one.
std::optional<int64_t> vocabulary_of(const std::string& directory) {
  try {
    return read_manifest(directory).vocab_size;
  } catch (const Error&) {
    return {};
  }
}

}  // namespace

StepTime time_step(Context& ctx, const StepCase& settings, int repeats, bool profile) {
  const Config& config = settings.config;
  const GptConfig& model_config = config.model;
  const int64_t sequences = config.train.micro_batch_size, accumulation = config.accumulation();
  StepTime result;
  result.bytes = total_bytes(training_memory_plan(ctx, config, sequences, 1, settings.recompute));
  check_fits(ctx, concat(settings.name, " with micro-batches of ", sequences), result.bytes);
  ParameterStore store(ctx, model_config, store_options(config.train, 0, 1));
  Gpt model(store, model_config, sequences, 1, Gpt::Mode::kTraining, 0, settings.recompute, precision_of(config.train));
  Optimizer optimizer(store, config.optimizer);
  Feeder feeder(ctx, sequences, model_config.sequence_length);
  store.init(1);
  if (config.train.autotune)
    result.gemms = autotune_gemms(model, feeder).line;
  else if (ctx.on_gpu())
    gpu::clear_gemm_algorithms(ctx);  // of the case before
  StepLauncher launcher(model, optimizer, config.train.graph);
  StepOutputs outputs(ctx);
  const RandomTokens tokens(model_config, sequences);
  std::vector<double> times, launches;
  const auto launch = [&](int i) {
    const Clock::time_point began = Clock::now();
    outputs.begin();
    optimizer.begin_step(1e-4, i + 1);
    for (int64_t micro = 0; micro < accumulation; ++micro) {
      Batch batch = feeder.put(tokens.ids, tokens.targets, tokens.samples, static_cast<uint32_t>(i));
      batch.gradient_scale = 1.0f / static_cast<float>(config.tokens_per_step());
      launcher.launch(batch, micro == 0, micro + 1 == accumulation);
    }
    outputs.send(model.loss_sums(), optimizer.norm());
    launches.push_back(std::chrono::duration<double, std::milli>(Clock::now() - began).count());
  };
  const auto finish = [&] {
    const StepOutput output = outputs.receive();
    require(std::isfinite(output.sums.loss), settings.name, ": the loss of a step is not finite");
    times.push_back(1e3 * output.seconds);
  };
  // As in training, where with graphs the host launches the next step before it waits for this one.
  const int64_t ahead = launcher.uses_graphs() ? 1 : 0;
  for (int i = 0; i < kWarmUps + repeats; ++i) {
    check_stop("stopped; printed rows are complete");
    launch(i);
    if (outputs.in_flight() > ahead) finish();
  }
  if (outputs.in_flight() > 0) finish();
  times.erase(times.begin(), times.begin() + kWarmUps);
  launches.erase(launches.begin(), launches.begin() + kWarmUps);
  if (profile) {
    ctx.profiler().collect(true);
    launch(kWarmUps + repeats);
    ctx.profiler().collect(false);
    finish();
    launches.pop_back(), times.pop_back();
  }
  result.profile = ctx.profiler().take();
  result.milliseconds = median(times);
  result.launch = median(launches);
  return result;
}

std::vector<StepCase> step_cases(const std::vector<std::string>& files, const StepChanges& changes) {
  std::vector<StepCase> cases;
  for (const std::string& file : files)
    for (const int64_t length : changes.lengths.empty() ? std::vector<int64_t>{0} : changes.lengths) {
      StepCase settings{.name = {}, .config = read_config(file)};
      settings.name = settings.config.name;
      const std::string& its_own = settings.config.train.recompute;
      settings.recompute = recompute_of(!changes.recompute.empty() ? changes.recompute
                                        : its_own == "auto"        ? "none"
                                                                   : its_own);
      if (!changes.precision.empty()) settings.config.train.precision = changes.precision;
      GptConfig& model = settings.config.model;
      model = model_after(settings.config, settings.config.train.steps);
      if (length > 0) model.sequence_length = length;
      if (model.vocab_size == 0) {
        std::optional<int64_t> of_text;
        if (changes.vocabulary_of_text) of_text = vocabulary_of(settings.config.data.directory);
        model.vocab_size = of_text.value_or(changes.vocabulary);
        settings.assumes_vocabulary = changes.vocabulary_of_text && !of_text;
      }
      if (model.documents && model.end_of_text < 0) model.end_of_text = model.vocab_size - 1;
      if (changes.sequences > 0)
        settings.config.train.batch_size = settings.config.train.micro_batch_size = changes.sequences;
      try {
        validate(model);
        validate_ranks(settings.config, 1, false);
      } catch (const Error& error) {
        fail(file, ": ", error.what());
      }
      cases.push_back(std::move(settings));
    }
  return cases;
}

void bench_steps(Context& ctx, const std::vector<StepCase>& cases, int repeats, bool profile, const std::string& csv) {
  for (const StepCase& settings : cases) try {
      if (ctx.on_gpu()) validate_for_gpu(settings.config.model);
      check_precision(ctx, settings.config);
    } catch (const Error& error) {
      fail(settings.name, ": ", error.what());
    }
  std::optional<TableFile> file;
  if (!csv.empty()) {
    file.emplace(csv);
    file->append(
        "system,pattern,precision,T,micro_batch,tokens_per_step,ms_per_step,tokens_per_s,peak_memory_gb,gpu\n");
  }
  const std::string device = device_name(ctx.device());
  std::cout << printed("%s; medians of %d steps, from initial values and random tokens\n", device.c_str(), repeats);
  std::cout << printed("%-20s %9s %8s %11s %11s %11s %11s %9s %8s\n", "config", "precision", "T", "micro-batch",
                       "tokens/step", "ms/step", "tokens/s", "memory GB", "TFLOP/s");
  flush_output();
  for (const StepCase& settings : cases) {
    const std::string precision =
        precision_of(settings.config.train) == Precision::kFp8 ? "fp8" : name_of(activation_type(ctx.device()));
    const StepTime time = time_step(ctx, settings, repeats, profile);
    const Config& config = settings.config;
    const auto tokens = static_cast<double>(config.tokens_per_step());
    const double rate = tokens / time.milliseconds * 1e3, gigabytes = static_cast<double>(time.bytes) * 1e-9;
    const double flops = rate * model_flops_per_token(config.model);
    std::cout << printed("%-20s %9s %8ld %11ld %11.0f %11.2f %11.0f %9.2f %8.2f\n", settings.name.c_str(),
                         precision.c_str(), config.model.sequence_length, config.train.micro_batch_size, tokens,
                         time.milliseconds, rate, gigabytes, flops * 1e-12);
    if (time.gemms.find("heuristics") != std::string::npos) std::cout << "  " << time.gemms << '\n';
    if (settings.assumes_vocabulary)
      std::cout << "  with a vocabulary of " << config.model.vocab_size << ": there is no prepared text at "
                << config.data.directory << "; --vocabulary gives another\n";
    if (profile) print_profile(time.profile);
    if (profile && ctx.on_gpu()) std::cout << printed("  launched by the host within %7.3f ms\n", time.launch);
    flush_output();
    if (file)
      file->append(concat("scfa,", settings.name, ',', precision, ',', config.model.sequence_length, ',',
                          config.train.micro_batch_size, ',', config.tokens_per_step(), ',', time.milliseconds, ',',
                          std::llround(rate), ',', gigabytes, ',', device, '\n'));
  }
  if (file) file->commit();
}

}  // namespace scfa
