// Everything a run is made of. Reading files, command-line overrides, checks, help, docs/configuration.md and the
// header of a run all come from visit_fields below (see config_io.h).
#pragma once
#include <cstdint>
#include <string>

#include "model/config.h"

namespace scfa {

struct DataConfig {
  std::string directory;
  std::string prepare;
  std::string order = "epoch";
  bool verify = true;
};

struct TrainConfig {
  int64_t steps = 1000;
  std::string init_from;
  int64_t batch_size = 8;
  int64_t micro_batch_size = 8;
  std::string recompute = "none";
  std::string precision = "auto";
  bool autotune = true;
  bool graph = true;
  int64_t zero = 0;
  std::string overlap = "auto";
  std::string reduce_dtype = "f32";
  double bucket_mb = 16;
  int64_t check_replicas = 100;
  double watchdog_seconds = 300;
  double stop_seconds = 60;
};

struct OptimizerConfig {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  bool decay_embeddings = false;
  double clip = 0;
};

struct ScheduleConfig {
  std::string schedule = "onecycle";
  double lr = 1e-3;
  double warmup = 0.02;
  double initial_ratio = 0.01;
  double final_ratio = 0.2;
  double decay = 0.2;
};

struct EvalConfig {
  int64_t every = 100;
  int64_t windows = 24;
};

struct CheckpointConfig {
  int64_t every = 1000;
  double minutes = 15;
  int64_t keep = 2;
  bool keep_best = true;
};

struct LogConfig {
  int64_t every = 10;
};

struct Config {
  std::string name;  // of the run; by default the config file's, without .json
  std::string runs = "runs";
  std::string device = "auto";
  int64_t seed = 1337;
  DataConfig data;
  GptConfig model;  // with the attention patterns, which have a section of their own
  TrainConfig train;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  LogConfig log;

  // Micro-batches that each rank computes in a step.
  int64_t accumulation(int ranks = 1) const { return train.batch_size / (train.micro_batch_size * ranks); }
  int64_t tokens_per_step() const { return train.batch_size * model.sequence_length; }  // of all ranks
};

// visit(section, key, value, meaning, rule) for every field but those of attention, whose section is an object or a
// list.
template <class ConfigT, class Visit>
void visit_fields(ConfigT& c, Visit&& visit) {
  const FieldRule any;
  visit("", "name", c.name, "name of the run; by default the config file's name", any);
  visit("", "runs", c.runs, "folder that holds the runs", any);
  visit("", "device", c.device, "where to compute; auto takes the GPU if there is one", one_of({"auto", "cpu", "gpu"}));
  visit("", "seed", c.seed, "seed of initial values, data order, projections and drops", at_least(0));
  visit("data", "directory", c.data.directory, "folder made by prepare_data", any);
  visit("data", "prepare", c.data.prepare, "command that makes the data, shown if it is missing", any);
  visit("data", "order", c.data.order, "every window once per epoch in permuted order, or windows at random offsets",
        one_of({"epoch", "random"}));
  visit("data", "verify", c.data.verify, "compare the checksums of all shards with the manifest before training", any);
  visit_fields_of_model(c.model, [&](const char* key, auto& value, const char* meaning, const FieldRule& rule) {
    visit("model", key, value, meaning, rule);
  });
  visit("train", "steps", c.train.steps, "optimizer steps", between(1, 4e9));
  visit("train", "init_from", c.train.init_from,
        "a run, or a checkpoint, to take the initial parameters from, instead of random ones. Attention and data may "
        "differ from that run's, and with rotary positions sequence_length too. Step and optimizer state start from "
        "zero",
        any);
  visit("train", "batch_size", c.train.batch_size, "sequences per step, over all micro-batches and ranks", at_least(1));
  visit("train", "micro_batch_size", c.train.micro_batch_size,
        "sequences that a rank computes at a time; times the number of ranks it must divide batch_size", at_least(1));
  visit("train", "recompute", c.train.recompute,
        "what the backward pass recomputes instead of keeping it (less memory, the same bits): none, the "
        "outputs of GELU, those of layer norms too, all of a block but its attention, or the least of these with which "
        "the run fits",
        one_of({"none", "gelu", "norms", "block", "auto"}));
  visit("train", "precision", c.train.precision,
        "precision of the training passes: auto is bf16 on a GPU and f32 on a CPU; fp8 computes most of the forward "
        "GEMMs and the input gradients of the MLP in 8 bits, which needs compute capability 8.9 (a CPU emulates it)",
        one_of({"auto", "fp8"}));
  visit(
      "train", "autotune", c.train.autotune,
      "on a GPU: choose the algorithms of GEMMs by measuring them, once for each kind of GPU, driver and "
      "library; choices are kept in ~/.cache/scfa and in checkpoints (a checkpoint's come first); all ranks take rank "
      "0's. false: cuBLASLt's heuristics choose",
      any);
  visit("train", "graph", c.train.graph,
        "on one GPU: steps are launched as CUDA graphs, each before the host has read the losses of the one before, so "
        "that small models do not wait for the host; the bits are the same. Several ranks launch kernel by kernel",
        any);
  visit("train", "zero", c.train.zero,
        "1 shards master weights and moments over the ranks (ZeRO-1), which saves memory; 0 replicates them",
        between(0, 1));
  visit("train", "overlap", c.train.overlap,
        "when gradients are reduced over ranks: beside the backward pass, after it, or whichever a trial in the first "
        "steps finds faster; on CPUs always after it",
        one_of({"auto", "beside", "after"}));
  visit("train", "reduce_dtype", c.train.reduce_dtype,
        "type in which gradients are reduced over ranks; bf16 halves the bytes, on GPUs only", one_of({"f32", "bf16"}));
  visit("train", "bucket_mb", c.train.bucket_mb,
        "gradients are reduced over ranks in buckets of whole blocks, at least this many megabytes", between(0, 1e6));
  visit("train", "check_replicas", c.train.check_replicas,
        "steps between comparisons of the parameters of all ranks, by a hash; 0: never", at_least(0));
  visit("train", "watchdog_seconds", c.train.watchdog_seconds,
        "a step (on a CPU: a micro-batch) or an evaluation batch that takes longer ends the run with an error, and so "
        "does a checkpoint that takes four times as long; 0 waits forever",
        at_least(0));
  visit("train", "stop_seconds", c.train.stop_seconds,
        "how long after a signal a step under way may still take; then the run ends without saving; 0 waits forever",
        at_least(0));
  visit("optimizer", "beta1", c.optimizer.beta1, "AdamW: decay of the first moment", between(0, 0.999999));
  visit("optimizer", "beta2", c.optimizer.beta2, "AdamW: decay of the second moment", between(0, 0.999999));
  visit("optimizer", "eps", c.optimizer.eps, "AdamW: added to the root of the second moment", at_least(0));
  visit("optimizer", "weight_decay", c.optimizer.weight_decay, "AdamW: decay of matrices; norms and biases have none",
        at_least(0));
  visit("optimizer", "decay_embeddings", c.optimizer.decay_embeddings, "weight decay on embeddings too", any);
  visit("optimizer", "clip", c.optimizer.clip, "largest global gradient norm; 0 does not clip", at_least(0));
  visit("schedule", "schedule", c.schedule.schedule,
        "course of the learning rate: the paper's one-cycle cosine, warm-up and cosine, linear, constant, or "
        "warm-up-stable-decay",
        one_of({"onecycle", "cosine", "linear", "constant", "wsd"}));
  visit("schedule", "lr", c.schedule.lr, "peak learning rate", at_least(0));
  visit("schedule", "warmup", c.schedule.warmup, "share of the steps spent warming up", between(0, 1));
  visit("schedule", "initial_ratio", c.schedule.initial_ratio, "onecycle: first learning rate over lr", between(0, 1));
  visit("schedule", "final_ratio", c.schedule.final_ratio, "last learning rate over lr (not for constant)",
        between(0, 1));
  visit("schedule", "decay", c.schedule.decay, "wsd: share of the steps spent decaying", between(0, 1));
  visit("eval", "every", c.eval.every, "steps between evaluations; 0 evaluates at the end only", at_least(0));
  visit("eval", "windows", c.eval.windows, "validation windows of sequence_length tokens, always the same",
        at_least(1));
  visit("checkpoint", "every", c.checkpoint.every, "steps between checkpoints; 0 saves at the end only", at_least(0));
  visit("checkpoint", "minutes", c.checkpoint.minutes, "also save this many minutes after the last save; 0: never",
        at_least(0));
  visit("checkpoint", "keep", c.checkpoint.keep, "newest checkpoints to keep; 0 keeps all", at_least(0));
  visit("checkpoint", "keep_best", c.checkpoint.keep_best,
        "keep the checkpoint of the lowest validation loss too, of those saved at an evaluated step", any);
  visit("log", "every", c.log.every, "steps between lines on the console", at_least(1));
}

// The model as it is after `done` steps: with the patterns of the last step, and no others.
GptConfig model_after(const Config& config, int64_t done);

// Checks what single fields cannot: throws Error naming the keys. The model is checked once its vocabulary is known.
void validate(const Config& config);

// Whether the batch can be shared out. Throws Error naming what would do.
void validate_ranks(const Config& config, int ranks, bool on_gpu);

// The learning rate of a step, 0 <= step < steps.
double learning_rate(const ScheduleConfig& schedule, int64_t step, int64_t steps);

}  // namespace scfa
