// Batches of a token set, prepared ahead by a background thread.
//
// What a step sees is a pure function of (seed, step): row g of a step, 0 <= g < batch * micro_steps * world, does not
// depend on how the step is cut into micro-batches and ranks. Micro-step m of rank r holds the rows
// g = (m * world + r) * batch + b, b = 0 .. batch - 1.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

#include "data/token_file.h"

namespace scfa {

enum class SampleOrder : uint8_t {
  kEpoch,   // every window [w T, w T + T] once an epoch, in an order drawn anew for each epoch
  kRandom,  // windows at independent uniform offsets
};

// "epoch" or "random". Throws Error naming both.
SampleOrder parse_sample_order(std::string_view name);

struct LoaderOptions {
  SampleOrder order = SampleOrder::kEpoch;
  uint64_t seed = 0;
  int64_t sequence_length = 0;  // T
  int64_t batch = 0;            // rows of one micro-batch of one rank
  int64_t micro_steps = 1;
  int rank = 0;
  int world = 1;
};

struct TokenBatch {
  int64_t step = 0;
  int64_t micro = 0;
  std::vector<int32_t> inputs, targets;  // (B, T); targets are inputs one token later, or kIgnoredTarget
  std::vector<uint32_t> samples;         // g of each row
};

// Offset of the first token of row g of a step: what the loader reads there.
int64_t sample_offset(const LoaderOptions& options, int64_t tokens, int64_t step, int64_t g);

// Inputs are the T tokens of a set from an offset on, targets those one later, or kIgnoredTarget.
void read_row(const TokenSet& set, int64_t offset, int64_t sequence_length, int32_t* inputs, int32_t* targets);

// Window w of the fixed cut of a set into windows of T tokens: inputs are tokens [w T, w T + T), targets one later.
void read_window(const TokenSet& set, int64_t window, int64_t sequence_length, int32_t* inputs, int32_t* targets);

// How many such windows a set has.
int64_t count_windows(const TokenSet& set, int64_t sequence_length);

class Loader {
 public:
  // The set must outlive the loader. Throws Error if an option is out of range or the set is too short for one window.
  Loader(const TokenSet& set, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // Valid until the next call. Consecutive micro-steps are ready ahead of time; any other is read when asked for.
  // Throws what reading the set throws.
  const TokenBatch& batch(int64_t step, int64_t micro);

  double data_wait_seconds() const { return data_wait_seconds_; }  // total time batch() spent waiting
  const TokenSet& set() const { return set_; }
  int64_t windows() const { return windows_; }
  double epoch(int64_t step) const;  // passes over the set before this step

 private:
  struct Prepared {
    TokenBatch batch;
    std::exception_ptr error;
  };
  void run();
  void fill(int64_t index, TokenBatch& batch) const;

  const TokenSet& set_;
  LoaderOptions options_;
  int64_t windows_;
  double data_wait_seconds_ = 0;
  TokenBatch current_;

  // Batches are numbered step * micro_steps + micro. Guarded by mutex_:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Prepared> ready_;  // consecutive, the first is number first_
  std::vector<TokenBatch> spare_;
  int64_t first_ = 0;
  bool stop_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace scfa
