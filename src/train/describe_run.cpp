#include "train/describe_run.h"

#include <spdlog/fmt/fmt.h>

#include <cstdlib>

#include "comm/collectives.h"
#include "comm/mpi.h"
#include "core/human.h"
#include "core/version.h"
#include "kernels/attention/attention.h"
#include "train/config_io.h"
#include "train/machine.h"
#include "train/preflight.h"

namespace scfa {

void describe_run(Console& console, Context& ctx, const Config& config, const TokenSet& train_set,
                  const Evaluator& evaluator, int ranks) {
  const double flops = peak_flops(ctx.device());
  const Machine machine = this_machine();
  const ParameterTable table(config.model);
  const int64_t windows = count_windows(train_set, config.model.sequence_length);
  require(windows > 0, config.data.directory, ": its training split of ", train_set.tokens(),
          " tokens is shorter than one window of ", config.model.sequence_length, "; lower model.sequence_length");
  const std::string heads = concat(config.model.n_head, " heads",
                                   config.model.kv_heads() < config.model.n_head
                                       ? concat(" (", config.model.kv_heads(), " of keys and values)")
                                       : "");
  console.line(fmt::format("scfa {} ({})  {}, {} threads", version(), git_commit(), machine.cpu, machine.threads));
  if (ctx.on_gpu()) {
    console.line(fmt::format("device: {}, {}, {} for bf16 GEMMs by its data sheet", gpu::description(),
                             precision_of(config.train) == Precision::kFp8 ? "bf16 and fp8" : "bf16",
                             flops > 0 ? format_count(flops) + "FLOP/s" : "unknown FLOP/s"));
    console.line(describe_attention(ctx));
  } else if (kCudaBuild && config.device == "auto") {
    console.line("device: cpu, f32 (" + gpu::description() + ")");
  }
  console.line(fmt::format("model: {} parameters, {} layers, {}, width {}, {} tokens a sequence; attention {}",
                           format_count(static_cast<double>(table.count)), config.model.n_layer, heads,
                           config.model.n_embd, config.model.sequence_length, describe_schedule(config.model)));
  for (const std::string& key : unused_attention_keys(config))
    console.line(fmt::format("  attention.{} has no effect: none of these patterns uses it", key));
  if (const double theta = larger_rotary_theta(config); theta > 0)
    console.line(
        fmt::format("  model.rotary_theta {:g}: small for {} tokens; with a larger one, such as {:g}, attention may "
                    "find more of what is far",
                    config.model.rotary_theta, config.model.sequence_length, theta));
  console.line(fmt::format("data: {}, {} training tokens ({}), {} of {} validation windows", config.data.directory,
                           format_count(static_cast<double>(train_set.tokens())), train_set.manifest().tokenizer,
                           evaluator.windows(), evaluator.available()));
  console.line(
      fmt::format("run: {} steps of {} tokens in {} micro-batches{}, {:.2f} epochs", config.train.steps,
                  format_count(static_cast<double>(config.tokens_per_step())), config.accumulation(ranks),
                  ranks > 1 ? fmt::format(" on each of {} ranks", ranks) : "",
                  static_cast<double>(config.train.steps * config.train.batch_size) / static_cast<double>(windows)));
}

void describe_ranks(Console& console, const World& world, Device device) {
  if (world.size() > 1) {
    console.line("ranks: " + world.describe());
    if (world.launcher() == Launcher::kMpirun && std::getenv("OMPI_MCA_odls_base_sigkill_timeout") == nullptr)
      console.line(
          "  on Ctrl-C mpirun kills its processes after a second; to leave them time to save, start it with --mca "
          "odls_base_sigkill_timeout 90, or stop it with kill -USR2");
    return;
  }
  if (device == Device::kGpu && !nccl::built())
    return console.line("ranks: 1; for several GPUs: " + nccl::description());
  if (!mpi::built()) console.line("ranks: 1; for mpirun: " + mpi::description());
}

}  // namespace scfa
