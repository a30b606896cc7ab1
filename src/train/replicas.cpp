#include "train/replicas.h"

#include <algorithm>

#include "kernels/cast.h"
#include "train/replica_check.h"

namespace scfa {

namespace {

bool in_bf16(const Context& ctx, const TrainConfig& config, int ranks) {
  return ranks > 1 && ctx.on_gpu() && config.reduce_dtype == "bf16";
}

struct Plan {
  Tensor staging, hash;
};

Plan make_plan(Arena& arena, const Context& ctx, const ParameterTable& table, const TrainConfig& config, int ranks) {
  Plan plan;
  if (ranks == 1) return plan;
  plan.hash = arena.take("hash", DType::kI32, {2});
  if (!in_bf16(ctx, config, ranks)) return plan;
  int64_t longest = 0;
  for (const Range& bucket : make_buckets(table, store_options(config, 0, ranks).bucket_elements))
    longest = std::max(longest, bucket.size());
  plan.staging = arena.take("gradients in bf16", DType::kBF16, {longest});
  return plan;
}

Arena measured(const Context& ctx, const ParameterTable& table, const TrainConfig& config, int ranks) {
  Arena arena(ctx.device());
  make_plan(arena, ctx, table, config, ranks);
  return arena;
}

}  // namespace

StoreOptions store_options(const TrainConfig& config, int rank, int ranks) {
  return {.training = true,
          .sharded = config.zero == 1 && ranks > 1,
          .rank = rank,
          .ranks = ranks,
          .bucket_elements = static_cast<int64_t>(config.bucket_mb * 1e6 / sizeof(float))};
}

int64_t Replicas::memory(const Context& ctx, const ParameterTable& table, const TrainConfig& config, int ranks) {
  return measured(ctx, table, config, ranks).used();
}

Replicas::Replicas(World& world, ParameterStore& store, const TrainConfig& config, bool share_gpu)
    : world_(world),
      store_(store),
      ctx_(store.context()),
      arena_(ctx_.device(), measured(ctx_, store.table(), config, world.size()).used()),
      overlap_(ctx_.on_gpu() && !alone() ? config.overlap : "after") {
  if (alone()) return;
  const Plan plan = make_plan(arena_, ctx_, store.table(), config, world.size());
  staging_ = plan.staging;
  hash_ = plan.hash;
  collectives_ = make_collectives(world, ctx_, share_gpu);
  world.set_abort([this] { collectives_->abort(); });
  world.set_details([this] { return reached(); });
  const auto event = [&] { return ctx_.on_gpu() ? gpu::create_event(false) : nullptr; };
  for (const Range& range : store.buckets())
    buckets_.push_back({.range = range, .ready = event(), .gathered = event()});
  comm_ = std::make_unique<CommStream>(ctx_);
}

Replicas::~Replicas() {
  world_.set_abort({});
  world_.set_details({});
  if (!ctx_.on_gpu()) return;
  for (const Bucket& bucket : buckets_) {
    gpu::destroy_event(bucket.ready);
    gpu::destroy_event(bucket.gathered);
  }
}

std::string Replicas::describe() const {
  return concat("collectives: ", collectives_->describe(), "; gradients reduced in ", staging_ ? "bf16" : "f32", ", ",
                buckets_.size(), buckets_.size() == 1 ? " bucket" : " buckets",
                store_.sharded() ? "; optimizer sharded (ZeRO-1)" : "");
}

size_t Replicas::bucket_of(size_t group) const {
  const int64_t begin = store_.table().groups[group].begin;
  size_t i = 0;
  while (begin < buckets_[i].range.begin) ++i;  // the last begins at 0
  return i;
}

// ---- a step ---------------------------------------------------------------------------------------------------------

// How far this rank's GPU has come, for the others to know whom they wait for. Called by the thread of the heartbeats.
std::string Replicas::reached() const {
  const size_t launched = launched_;
  if (!ctx_.on_gpu() || launched == 0) return {};
  try {
    gpu::use_in_this_thread();
    size_t entered = 0;
    while (entered < launched && gpu::is_past(buckets_[entered].ready)) ++entered;
    return concat("its GPU is ready for ", entered, " of ", buckets_.size(), " sums of gradients");
  } catch (const std::exception& error) {
    return error.what();
  }
}

void Replicas::begin_step() {
  for (Bucket& bucket : buckets_) bucket.complete = bucket.reduced = false;
  reducing_ = !alone() && overlap_.beside() && comm_->overlaps();
}

void Replicas::gradients_ready(size_t group) {
  if (!reducing_) return;
  Bucket& bucket = buckets_[bucket_of(group)];
  bucket.complete = store_.table().groups[group].begin == bucket.range.begin;  // else its last group comes later
}

void Replicas::before_attention_backward() {
  if (!reducing_) return;
  for (Bucket& bucket : buckets_)
    if (bucket.complete && !bucket.reduced) reduce(bucket);
}

void Replicas::reduce(Bucket& bucket) {
  const World::Doing doing(world_, store_.sharded() ? "reduce-scatter of gradients" : "all-reduce of gradients");
  bucket.reduced = true;
  if (!ctx_.on_gpu()) return comm_->run([&] { reduce_on_stream(bucket.range); });
  gpu::record(bucket.ready, ctx_.stream());
  gpu::wait(ctx_.comm_stream(), bucket.ready);
  comm_->run([&] { reduce_on_stream(bucket.range); });
  ++launched_;
}

void Replicas::reduce_on_stream(const Range& range) {
  const Tensor gradients = store_.gradients().slice(range.begin, range.size());
  const Tensor sums = staging_ ? staging_.slice(0, range.size()) : gradients;
  const OnStream on(ctx_, ctx_.comm_stream());
  if (staging_) cast(ctx_, sums, gradients);
  if (store_.sharded())
    collectives_->reduce_scatter(sums);
  else
    collectives_->all_reduce(sums);
  if (!staging_) return;
  const Range part = store_.sharded() ? part_of(range.size(), world_.rank(), world_.size()) : Range{0, range.size()};
  if (part.size() > 0) cast(ctx_, gradients.slice(part.begin, part.size()), sums.slice(part.begin, part.size()));
}

void Replicas::finish_gradients() {
  if (alone()) return;
  reducing_ = false;
  if (!comm_->overlaps()) ctx_.synchronize();
  for (Bucket& bucket : buckets_)
    if (!bucket.reduced) reduce(bucket);
  comm_->join();
}

void Replicas::all_reduce(const Tensor& sums, const char* what) {
  if (alone()) return;
  const World::Doing doing(world_, what);
  comm_->fork();
  comm_->run([&] { collectives_->all_reduce(sums); });
  comm_->join();
}

void Replicas::finish_step() {
  if (alone()) return;
  collectives_->check();
  launched_ = 0;
  if (store_.sharded()) gather_params();
  comm_->allow_overlap();
}

std::string Replicas::note_step(double seconds) {
  if (!overlap_.note_step(seconds)) return {};
  const bool beside = world_.broadcast("when to add up gradients", overlap_.beside_was_faster() ? 1 : 0) != 0;
  overlap_.settle(beside);
  return overlap_.describe();
}

void Replicas::measure_times(bool on) {
  if (comm_) comm_->measure_times(on);
}

void Replicas::gather_params() {
  const World::Doing doing(world_, "all-gather of weights");
  comm_->fork();
  for (size_t i = buckets_.size(); i-- > 0;) {  // in the order in which forward uses them
    Bucket& bucket = buckets_[i];
    comm_->run(
        [&] { collectives_->all_gather(store_.compute_params().slice(bucket.range.begin, bucket.range.size())); });
    bucket.gathering = ctx_.on_gpu();
    if (!bucket.gathering) continue;
    gpu::record(bucket.gathered, ctx_.comm_stream());
    if (!comm_->overlaps()) gpu::synchronize(bucket.gathered);
  }
}

void Replicas::before_use(size_t group) {
  if (alone()) return;
  Bucket& bucket = buckets_[bucket_of(group)];
  if (!bucket.gathering) return;
  bucket.gathering = false;
  comm_->join(bucket.gathered);
}

// ---- everything at once ---------------------------------------------------------------------------------------------

void Replicas::download(HostState& state) {
  state.download([&](const Tensor& parts) {
    if (alone()) return;
    if (ctx_.on_gpu()) ctx_.synchronize();
    for (const Bucket& bucket : buckets_)
      collectives_->all_gather(parts.slice(bucket.range.begin, bucket.range.size()));
    if (ctx_.on_gpu()) gpu::synchronize(ctx_.comm_stream(), "gathering what is to be saved");
  });
}

void Replicas::upload(HostState& state) {
  state.upload([&](const Tensor& whole) {
    if (alone()) return;
    if (ctx_.on_gpu()) ctx_.synchronize();
    collectives_->broadcast(whole);
    if (ctx_.on_gpu()) gpu::synchronize(ctx_.comm_stream(), "passing on the parameters");
  });
}

void Replicas::compare(int64_t step) {
  if (alone()) return;
  const World::Doing doing(world_, "comparing parameters");
  for (size_t group = 0; group < store_.table().groups.size(); ++group) before_use(group);
  require_equal_replicas(world_, store_, ctx_, hash_, step);
}

}  // namespace scfa
