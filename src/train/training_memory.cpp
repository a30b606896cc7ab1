#include "train/training_memory.h"

#include "train/preflight.h"

namespace scfa {

namespace {

LoaderOptions loader_options(const Config& config, int rank, int ranks) {
  return {.order = parse_sample_order(config.data.order),
          .seed = static_cast<uint64_t>(config.seed),
          .sequence_length = config.model.sequence_length,
          .batch = config.train.micro_batch_size,
          .micro_steps = config.accumulation(ranks),
          .rank = rank,
          .world = ranks};
}

}  // namespace

TrainingMemory::TrainingMemory(Context& ctx, const Config& config, const TokenSet& train_set, Recompute recompute,
                               int rank, int ranks)
    : store(ctx, config.model, store_options(config.train, rank, ranks)),
      model(store, config.model, config.train.micro_batch_size, static_cast<uint64_t>(config.seed),
            Gpt::Mode::kTraining, 0, recompute, precision_of(config.train)),
      optimizer(store, config.optimizer),
      feeder(ctx, config.train.micro_batch_size, config.model.sequence_length),
      loader(train_set, loader_options(config, rank, ranks)) {}

std::unique_ptr<TrainingMemory> allocate_training(World& world, Context& ctx, const Config& config,
                                                  const TokenSet& train_set, Recompute recompute, bool share_gpu) {
  std::unique_ptr<TrainingMemory> memory;
  world.run_on_all("allocating memory", [&] {
    memory = std::make_unique<TrainingMemory>(ctx, config, train_set, recompute, world.rank(), world.size());
  });
  memory->replicas = std::make_unique<Replicas>(world, memory->store, config.train, share_gpu);
  memory->model.set_observer(memory->replicas.get());
  return memory;
}

}  // namespace scfa
