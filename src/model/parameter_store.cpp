#include "model/parameter_store.h"

#include <algorithm>

#include "kernels/cast.h"

namespace scfa {

namespace {

// Where a rank's shards lie in the flat buffers.
std::vector<Range> shards_of(const ParameterTable& table, const std::vector<Range>& buckets, const StoreOptions& o) {
  if (!o.sharded) return {{0, table.length}};
  std::vector<Range> shards;
  for (const Range& bucket : buckets) {
    const Range part = part_of(bucket.size(), o.rank, o.ranks);
    if (part.size() > 0) shards.push_back({bucket.begin + part.begin, bucket.begin + part.end});
  }
  return shards;
}

struct Plan {
  Tensor master_params, compute_params, gradients, first_moment, second_moment, bucket_biases, bucket_loads;
};

Plan make_plan(Arena& arena, const Context& ctx, const ParameterTable& table, const BucketBiasTable& biases,
               const StoreOptions& o) {
  int64_t owned = 0;
  for (const Range& shard : shards_of(table, make_buckets(table, o.bucket_elements), o)) owned += shard.size();
  const int64_t all = table.length;
  Plan plan;
  plan.master_params = arena.take("parameters", DType::kF32, {ctx.on_gpu() ? owned : all});
  plan.compute_params = ctx.on_gpu() ? arena.take("weights in bf16", DType::kBF16, {all}) : plan.master_params;
  if (biases.length > 0) plan.bucket_biases = arena.take("parameters", DType::kF32, {biases.length});
  if (!o.training) return plan;
  if (biases.length > 0) plan.bucket_loads = arena.take("optimizer state", DType::kF64, {biases.length});
  plan.gradients = arena.take("parameter gradients", DType::kF32, {all});
  plan.first_moment = arena.take("optimizer state", DType::kF32, {owned});
  plan.second_moment = arena.take("optimizer state", DType::kF32, {owned});
  return plan;
}

Arena measure(const Context& ctx, const ParameterTable& table, const BucketBiasTable& biases, const StoreOptions& o) {
  Arena arena(ctx.device());
  make_plan(arena, ctx, table, biases, o);
  return arena;
}

}  // namespace

std::vector<Range> make_buckets(const ParameterTable& table, int64_t least) {
  const std::vector<Range>& groups = table.groups;
  std::vector<Range> buckets;
  Range open{table.length, table.length};
  for (size_t g = groups.size(); g-- > 1;) {
    open.begin = groups[g].begin;
    if (open.size() < least && g > 1) continue;
    buckets.push_back(open);
    open.end = open.begin;
  }
  const bool small = buckets.size() == 1 && buckets[0].size() < least;
  if (small)
    buckets[0].begin = 0;
  else
    buckets.push_back(groups[0]);
  return buckets;
}

ParameterStore::ParameterStore(Context& ctx, const GptConfig& config, const StoreOptions& options)
    : ctx_(ctx),
      config_(config),
      options_(options),
      table_(config),
      bucket_bias_table_(config),
      buckets_(make_buckets(table_, options.bucket_elements)) {
  require(options.training || !options.sharded, "parameter store: only the state of training can be sharded");
  arena_ = std::make_unique<Arena>(ctx.device(), measure(ctx, table_, bucket_bias_table_, options).used());
  const Plan plan = make_plan(*arena_, ctx, table_, bucket_bias_table_, options);
  master_params_ = plan.master_params, compute_params_ = plan.compute_params, gradients_ = plan.gradients;
  first_moment_ = plan.first_moment, second_moment_ = plan.second_moment;
  bucket_biases_ = plan.bucket_biases, bucket_loads_ = plan.bucket_loads;
  for (const Tensor& t :
       {master_params_, compute_params_, gradients_, first_moment_, second_moment_, bucket_biases_, bucket_loads_})
    if (t) ctx.zero(t);  // what lies between tensors stays zero
  if (!options.training) return;
  int64_t owned = 0;
  for (const Range& range : shards_of(table_, buckets_, options)) {
    const int64_t n = range.size();
    shards_.push_back({.range = range,
                       .master_params = master_params_.slice(is_whole(State::kMasterParams) ? range.begin : owned, n),
                       .first_moment = first_moment_.slice(owned, n),
                       .second_moment = second_moment_.slice(owned, n),
                       .gradients = gradients_.slice(range.begin, n),
                       .compute_params = ctx.on_gpu() ? compute_params_.slice(range.begin, n) : Tensor()});
    owned += n;
  }
}

std::vector<Arena::Item> ParameterStore::memory_plan(const Context& ctx, const GptConfig& config,
                                                     const StoreOptions& options) {
  return measure(ctx, ParameterTable(config), BucketBiasTable(config), options).items();
}

bool ParameterStore::is_whole(State state) const {
  return !options_.sharded || (state == State::kMasterParams && !ctx_.on_gpu());
}

Tensor ParameterStore::whole(State state) const {
  return state == State::kMasterParams ? master_params_ : state == State::kFirstMoment ? first_moment_ : second_moment_;
}

Tensor ParameterStore::state_of(const Shard& shard, State state) {
  return state == State::kMasterParams  ? shard.master_params
         : state == State::kFirstMoment ? shard.first_moment
                                        : shard.second_moment;
}

Tensor ParameterStore::master_params() const {
  require(is_whole(State::kMasterParams), "parameter store: the master values are sharded over ", options_.ranks,
          " ranks");
  return master_params_;
}

void ParameterStore::master_params_changed() {
  if (ctx_.on_gpu()) cast(ctx_, compute_params_, master_params());
}

void ParameterStore::init(uint64_t seed) {
  const Tensor staged = staging(State::kMasterParams);
  const Buffer host(static_cast<size_t>(ctx_.on_gpu() ? staged.bytes() : 0), Device::kCpu);
  const Tensor flat = ctx_.on_gpu() ? Tensor(host.data(), DType::kF32, Device::kCpu, {table_.length}) : staged;
  init_parameters(table_, flat, config_.n_layer, seed);
  if (ctx_.on_gpu()) ctx_.copy(staged, flat);
  put(State::kMasterParams);
  if (bucket_biases_) ctx_.zero(bucket_biases_);
  ctx_.synchronize();  // the host buffer goes away
}

Tensor ParameterStore::staging(State state) const {
  return is_whole(state) ? whole(state) : gradients_;
}

void ParameterStore::put(State state) {
  const Tensor staged = staging(state);
  if (state == State::kMasterParams && ctx_.on_gpu()) cast(ctx_, compute_params_, staged);
  if (is_whole(state)) return;
  for (const Shard& shard : shards_)
    ctx_.copy(state_of(shard, state), staged.slice(shard.range.begin, shard.range.size()));
}

Tensor ParameterStore::take(State state) {
  if (is_whole(state)) return whole(state);
  ctx_.zero(gradients_);
  for (const Shard& shard : shards_)
    ctx_.copy(gradients_.slice(shard.range.begin, shard.range.size()), state_of(shard, state));
  return gradients_;
}

}  // namespace scfa
