#include "data/loader.h"

#include <algorithm>
#include <bit>
#include <chrono>

#include "core/error.h"
#include "core/rng.h"

namespace scfa {

namespace {

constexpr size_t kAhead = 4;  // batches ready ahead of time

// The use of the layer coordinate of core/rng.h: 0 draws random offsets, 1 + i is round i of the epoch's permutation.
constexpr uint32_t kOffsetDraw = 0, kFirstRound = 1, kRounds = 6;

// A permutation of [0, count) for each (seed, epoch): a Feistel network over an even number of bits, walked until
// it lands inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
int64_t permute(uint64_t seed, int64_t epoch, int64_t count, int64_t index) {
  const auto bits = static_cast<int>(std::bit_width(static_cast<uint64_t>(count - 1)));
  const int half = std::max(1, (bits + 1) / 2);
  const uint64_t mask = (uint64_t{1} << half) - 1;
  auto value = static_cast<uint64_t>(index);
  do {
    uint64_t left = value >> half, right = value & mask;
    for (uint32_t round = 0; round < kRounds; ++round) {
      const Random4 random = random4(seed, Purpose::kData, static_cast<uint32_t>(epoch), kFirstRound + round, 0, 0,
                                     static_cast<uint32_t>(right));
      const uint64_t swapped = left ^ (random.v[0] & mask);
      left = right;
      right = swapped;
    }
    value = left << half | right;
  } while (value >= static_cast<uint64_t>(count));
  return static_cast<int64_t>(value);
}

int64_t windows_of(int64_t tokens, int64_t sequence_length) {
  return (tokens - 1) / sequence_length;
}

int64_t global_batch(const LoaderOptions& options) {
  return options.batch * options.micro_steps * options.world;
}

}  // namespace

void read_row(const TokenSet& set, int64_t offset, int64_t sequence_length, int32_t* inputs, int32_t* targets) {
  set.read(offset, sequence_length, inputs);
  set.read_targets(offset + 1, sequence_length, targets);
}

SampleOrder parse_sample_order(std::string_view name) {
  if (name == "epoch") return SampleOrder::kEpoch;
  if (name == "random") return SampleOrder::kRandom;
  fail("no sample order is called '", name, "'; there are epoch and random");
}

int64_t sample_offset(const LoaderOptions& options, int64_t tokens, int64_t step, int64_t g) {
  if (options.order == SampleOrder::kRandom) {
    const Random4 random =
        random4(options.seed, Purpose::kData, static_cast<uint32_t>(step), kOffsetDraw, 0, static_cast<uint32_t>(g), 0);
    const uint64_t bits = uint64_t{random.v[0]} << 32 | random.v[1];
    const auto offsets = static_cast<uint64_t>(tokens - options.sequence_length);
    return static_cast<int64_t>(static_cast<unsigned __int128>(bits) * offsets >> 64);
  }
  const int64_t windows = windows_of(tokens, options.sequence_length);
  const int64_t index = step * global_batch(options) + g;
  return permute(options.seed, index / windows, windows, index % windows) * options.sequence_length;
}

int64_t count_windows(const TokenSet& set, int64_t sequence_length) {
  require(sequence_length > 0, "data: sequence_length must be positive, not ", sequence_length);
  return windows_of(set.tokens(), sequence_length);
}

void read_window(const TokenSet& set, int64_t window, int64_t sequence_length, int32_t* inputs, int32_t* targets) {
  const int64_t windows = count_windows(set, sequence_length);
  require(window >= 0 && window < windows, set.directory(), ": window ", window, " of the ", name_of(set.split()),
          " split, which has ", windows, " of ", sequence_length, " tokens");
  read_row(set, window * sequence_length, sequence_length, inputs, targets);
}

Loader::Loader(const TokenSet& set, const LoaderOptions& options)
    : set_(set), options_(options), windows_(count_windows(set, options.sequence_length)) {
  require(options.batch > 0 && options.micro_steps > 0, "data: batch and micro_steps must be positive, not ",
          options.batch, " and ", options.micro_steps);
  require(options.world > 0 && options.rank >= 0 && options.rank < options.world, "data: rank ", options.rank,
          " of a world of ", options.world);
  require(global_batch(options) < (int64_t{1} << 24), "data: ", global_batch(options), " rows a step, at most 2^24");
  require(windows_ > 0, set.directory(), ": the ", name_of(set.split()), " split has ", set.tokens(),
          " tokens, too few for one window of sequence_length ", options.sequence_length, ": it takes ",
          options.sequence_length + 1);
  thread_ = std::thread([this] { run(); });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

double Loader::epoch(int64_t step) const {
  return static_cast<double>(step) * static_cast<double>(global_batch(options_)) / static_cast<double>(windows_);
}

const TokenBatch& Loader::batch(int64_t step, int64_t micro) {
  require(step >= 0 && micro >= 0 && micro < options_.micro_steps, "data: batch of step ", step, ", micro-step ", micro,
          "; there are ", options_.micro_steps, " micro-steps");
  const int64_t index = step * options_.micro_steps + micro;
  const auto start = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  if (index != first_) {  // not the next one: start over from there
    first_ = index;
    ready_.clear();
    changed_.notify_all();
  }
  changed_.wait(lock, [this] { return !ready_.empty(); });
  Prepared prepared = std::move(ready_.front());
  ready_.pop_front();
  ++first_;
  spare_.push_back(std::move(current_));
  current_ = std::move(prepared.batch);
  lock.unlock();
  changed_.notify_all();
  data_wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (prepared.error) std::rethrow_exception(prepared.error);
  return current_;
}

void Loader::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || ready_.size() < kAhead; });
    if (stop_) return;
    const int64_t index = first_ + static_cast<int64_t>(ready_.size());
    Prepared prepared;
    if (!spare_.empty()) {
      prepared.batch = std::move(spare_.back());
      spare_.pop_back();
    }
    lock.unlock();
    try {
      fill(index, prepared.batch);
    } catch (...) {
      prepared.error = std::current_exception();
    }
    lock.lock();
    if (index == first_ + static_cast<int64_t>(ready_.size())) {  // else another place was asked for meanwhile
      ready_.push_back(std::move(prepared));
      changed_.notify_all();
    }
  }
}

void Loader::fill(int64_t index, TokenBatch& batch) const {
  const int64_t length = options_.sequence_length;
  const auto rows = static_cast<size_t>(options_.batch);
  batch.step = index / options_.micro_steps;
  batch.micro = index % options_.micro_steps;
  batch.inputs.resize(rows * static_cast<size_t>(length));
  batch.targets.resize(batch.inputs.size());
  batch.samples.resize(rows);
  for (int64_t b = 0; b < options_.batch; ++b) {
    const int64_t g = (batch.micro * options_.world + options_.rank) * options_.batch + b;
    batch.samples[static_cast<size_t>(b)] = static_cast<uint32_t>(g);
    read_row(set_, sample_offset(options_, set_.tokens(), batch.step, g), length,
             &batch.inputs[static_cast<size_t>(b * length)], &batch.targets[static_cast<size_t>(b * length)]);
  }
}

}  // namespace scfa
