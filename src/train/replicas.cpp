#include "train/replicas.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "kernels/cast.h"
#include "kernels/hash_bits.h"

namespace scfa {

namespace {

constexpr int64_t kTriedSteps = 4;  // of each way of adding up

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
      config_(config),
      arena_(ctx_.device(), measured(ctx_, store.table(), config, world.size()).used()) {
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
  computed_ = event();
  done_ = event();
  beside_ = ctx_.on_gpu() && config.overlap == "beside";
  trying_ = ctx_.on_gpu() && config.overlap == "auto";
}

Replicas::~Replicas() {
  world_.set_abort({});
  world_.set_details({});
  if (!ctx_.on_gpu()) return;
  for (const Bucket& bucket : buckets_) {
    gpu::destroy_event(bucket.ready);
    gpu::destroy_event(bucket.gathered);
  }
  if (alone()) return;
  gpu::destroy_event(computed_);
  gpu::destroy_event(done_);
}

std::string Replicas::describe() const {
  return concat("collectives: ", collectives_->describe(), "; gradients reduced in ",
                in_bf16(ctx_, config_, world_.size()) ? "bf16" : "f32", ", ", buckets_.size(),
                buckets_.size() == 1 ? " bucket" : " buckets", store_.sharded() ? "; optimizer sharded (ZeRO-1)" : "");
}

size_t Replicas::bucket_of(size_t group) const {
  const int64_t begin = store_.table().groups[group].begin;
  size_t i = 0;
  while (begin < buckets_[i].range.begin) ++i;  // the last begins at 0
  return i;
}

// ---- a step ---------------------------------------------------------------------------------------------------------

template <class Work>
void Replicas::timed(const char* name, Stream stream, const Work& work) {
  if (!measuring_) return work();
  Profiler& profiler = ctx_.profiler();
  if (ctx_.on_gpu()) {
    Event from = profiler.mark(stream);
    work();
    return profiler.add_span(name, Category::kCommunication, from, profiler.mark(stream));
  }
  const auto begin = std::chrono::steady_clock::now();
  work();
  profiler.add(name, Category::kCommunication,
               std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
}

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
  // In the first step every kernel is loaded, which can wait for a collective that waits for another rank's kernel. So
  // nothing runs beside anything there.
  reducing_ = !alone() && beside_ && !first_step_;
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
  if (!ctx_.on_gpu()) return timed(kExposed, nullptr, [&] { reduce_on_stream(bucket.range); });
  gpu::record(bucket.ready, ctx_.stream());
  gpu::wait(ctx_.comm_stream(), bucket.ready);
  timed(kCommunication, ctx_.comm_stream(), [&] { reduce_on_stream(bucket.range); });
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
  if (first_step_) ctx_.synchronize();
  for (Bucket& bucket : buckets_)
    if (!bucket.reduced) reduce(bucket);
  if (ctx_.on_gpu()) gpu::record(done_, ctx_.comm_stream());
  join(done_);
}

// The main stream waits for an event of the other.
void Replicas::join(Event event) {
  if (!ctx_.on_gpu()) return;
  timed(kExposed, ctx_.stream(), [&] { gpu::wait(ctx_.stream(), event); });
  if (first_step_) gpu::synchronize(event);
}

// The other stream waits for all that was launched on the main one.
void Replicas::fork() {
  if (!ctx_.on_gpu()) return;
  gpu::record(computed_, ctx_.stream());
  gpu::wait(ctx_.comm_stream(), computed_);
}

void Replicas::all_reduce(const Tensor& sums) {
  if (alone()) return;
  const World::Doing doing(world_, "all-reduce of the gradient norm");
  fork();
  timed(ctx_.on_gpu() ? kCommunication : kExposed, ctx_.comm_stream(), [&] { collectives_->all_reduce(sums); });
  if (ctx_.on_gpu()) gpu::record(done_, ctx_.comm_stream());
  join(done_);
}

void Replicas::finish_step() {
  if (alone()) return;
  collectives_->check();
  launched_ = 0;
  if (store_.sharded()) gather_params();
  first_step_ = false;
}

// Sums beside the backward pass hide a slow network. Between GPUs with fast links they can cost more than they hide:
// they take multiprocessors from products and attention, and power.
std::string Replicas::note_step(double seconds) {
  if (!trying_ || ++tried_ == 1) return {};  // the first step loads kernels
  const bool second_half = tried_ > 1 + kTriedSteps;
  // Each half's first step finds the ranks as the other way has left them.
  if ((tried_ - 2) % kTriedSteps != 0) (second_half ? beside_seconds_ : after_seconds_) += seconds;
  beside_ = tried_ >= 1 + kTriedSteps;
  if (tried_ < 1 + 2 * kTriedSteps) return {};
  trying_ = false;
  beside_ = world_.broadcast("when to add up gradients", beside_seconds_ < after_seconds_ ? 1 : 0) != 0;
  const double steps = kTriedSteps - 1;
  return concat("gradients are added up ", beside_ ? "beside" : "after",
                " the backward pass: ", std::lround(1e4 * after_seconds_ / steps) / 10.0, " ms a step after it, ",
                std::lround(1e4 * beside_seconds_ / steps) / 10.0, " ms beside it");
}

void Replicas::gather_params() {
  const World::Doing doing(world_, "all-gather of weights");
  fork();
  for (size_t i = buckets_.size(); i-- > 0;) {  // in the order in which forward uses them
    Bucket& bucket = buckets_[i];
    timed(ctx_.on_gpu() ? kCommunication : kExposed, ctx_.comm_stream(),
          [&] { collectives_->all_gather(store_.compute_params().slice(bucket.range.begin, bucket.range.size())); });
    bucket.gathering = ctx_.on_gpu();
    if (!bucket.gathering) continue;
    gpu::record(bucket.gathered, ctx_.comm_stream());
    if (first_step_) gpu::synchronize(bucket.gathered);
  }
}

void Replicas::before_use(size_t group) {
  if (alone()) return;
  Bucket& bucket = buckets_[bucket_of(group)];
  if (!bucket.gathering) return;
  bucket.gathering = false;
  join(bucket.gathered);
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
  std::vector<Tensor> same{store_.compute_params()};
  if (!store_.sharded())
    same = {store_.master_params(), store_.shards()[0].first_moment, store_.shards()[0].second_moment};
  uint64_t all = 0;
  for (const Tensor& tensor : same) {
    uint64_t bits = 0;
    hash_bits(ctx_, hash_, tensor);
    ctx_.copy(Tensor(&bits, DType::kI32, Device::kCpu, {2}), hash_);
    all = all * 31 + bits;
  }
  const std::vector<uint64_t> hashes = world_.all_gather_values("hashes of the parameters", all);
  std::string differing;
  for (size_t r = 1; r < hashes.size(); ++r)
    if (hashes[r] != hashes[0]) differing += (differing.empty() ? "" : ", ") + world_.name_of(static_cast<int>(r));
  if (!differing.empty())
    throw CollectiveError(
        concat("after step ", step, " the parameters are not the same on all ranks: those of ", differing,
               " differ from rank 0's (train.check_replicas). A GPU or its memory may be faulty. Nothing "
               "was saved"));
}

}  // namespace scfa
