#include "tools/bench_inputs.h"

#include "core/rng.h"
#include "data/loader.h"
#include "kernels/attention/attention.h"
#include "model/gpt.h"
#include "train/checkpoint.h"
#include "train/evaluate.h"
#include "train/feeder.h"
#include "train/machine.h"
#include "train/preflight.h"
#include "train/run_folder.h"

namespace scfa {

TrainedInputs trained_inputs(Context& ctx, const std::string& checkpoint, const std::string& data, int64_t B,
                             int64_t T) {
  const CheckpointState state = find_checkpoint(checkpoint);
  const TokenSet set(data.empty() ? state.config.data.directory : data, Split::kVal);
  check_tokenizer(state, set);
  const GptConfig model = model_after(state.config, state.step);
  if (ctx.on_gpu()) validate_for_gpu(model);
  require(T <= model.sequence_length, "--length: ", state.path, " has a context of ", model.sequence_length,
          " tokens, fewer than ", T);
  const int64_t available = count_windows(set, T);
  require(available >= B, "--batch: ", set.directory(), ": its val split has ", available, " windows of ", T,
          " tokens, fewer than ", B);

  TrainedInputs inputs{.shape = {.B = B, .T = T, .H = model.n_head, .D = model.head_dim(), .H_kv = model.kv_heads()},
                       .layout = model.shared_qk ? AttentionLayout::kSharedQk : AttentionLayout::kQkv,
                       .layers = {}};
  const int64_t heads = model.shared_qk ? 2 * model.n_head : model.n_head + 2 * model.kv_heads(),
                layer_bytes =
                    B * T * heads * model.head_dim() * static_cast<int64_t>(size_of(activation_type(ctx.device())));
  const int64_t bytes = total_bytes(Gpt::memory_plan(ctx, model, B, Gpt::Mode::kEvaluation, T)) +
                        total_bytes(ParameterStore::memory_plan(ctx, model, StoreOptions{})) +
                        Feeder::memory(ctx, B, T) + model.n_layer * layer_bytes;
  check_fits(ctx, concat("--checkpoint: ", B, " sequences of ", T, " tokens"), bytes);
  if (!ctx.on_gpu()) require_blas_memory(bytes);
  ParameterStore store(ctx, model, StoreOptions{});
  load_checkpoint(state.path, store);
  Gpt gpt(store, model, B, static_cast<uint64_t>(state.config.seed), Gpt::Mode::kEvaluation, T);
  // Runs attention as usual and copies its inputs.
  gpt.set_attention([&](int64_t, const BlockActivations& a, const Batch&) {
    Buffer& kept = inputs.layers.emplace_back(static_cast<size_t>(layer_bytes), ctx.device());
    Tensor to = a.qkv;
    to.data = kept.data();
    ctx.copy(to, a.qkv);
    const Heads of = heads_of(model, a.qkv, a.shared_keys);
    attention_forward(ctx, as_heads(a.attention, model.n_head), a.lse, of.q, of.k, of.v, a.segments.relations,
                      model.softmax_scale(), gpt.activations().attention_scratch);
  });
  std::vector<int32_t> ids(static_cast<size_t>(B * T)), targets(ids.size());
  std::vector<uint32_t> samples(static_cast<size_t>(B));
  for (int64_t b = 0; b < B; ++b) {
    read_row(set, b * available / B * T, T, ids.data() + b * T, targets.data() + b * T);
    samples[static_cast<size_t>(b)] = static_cast<uint32_t>(b);
  }
  Feeder feeder(ctx, B, T);
  gpt.forward(feeder.put(ids, targets, samples, kEvaluationStep), false);
  gpt.take_losses();
  return inputs;
}

}  // namespace scfa
