#include "data/bigram.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "core/error.h"
#include "core/signals.h"

namespace scfa {

namespace {

constexpr int64_t kBlock = 1 << 18;

// Calls use(token) for tokens [0, count) of a set.
void for_each_token(const TokenSet& set, int64_t count, const std::function<void(uint32_t)>& use) {
  std::vector<int32_t> block(kBlock);
  for (int64_t at = 0; at < count; at += kBlock) {
    require(!stop_requested(), set.directory(), ": counting was interrupted");
    const int64_t part = std::min(kBlock, count - at);
    set.read(at, part, block.data());
    for (int64_t i = 0; i < part; ++i) use(static_cast<uint32_t>(block[static_cast<size_t>(i)]));
  }
}

class BigramModel {
 public:
  BigramModel(const TokenSet& train, int64_t tokens) : vocab_(train.manifest().vocab_size), count_(vocab_) {
    std::vector<uint64_t> pairs;  // left << 32 | right, one for each place; sorted, equal ones are neighbours
    pairs.reserve(static_cast<size_t>(tokens));
    uint64_t left = 0;
    for_each_token(train, tokens, [&](uint32_t token) {
      if (total_++ > 0) pairs.push_back(left << 32 | token);
      ++count_[token];
      left = token;
    });
    std::sort(pairs.begin(), pairs.end());
    collect(pairs);
  }

  double unigram(uint32_t token) const {
    return static_cast<double>(count_[token] + 1) / static_cast<double>(total_ + vocab_);
  }

  double bigram(uint32_t left, uint32_t right) const {
    // How many different tokens come before `right`, smoothed as the unigram is.
    const double base = static_cast<double>(predecessors_[right] + 1) / static_cast<double>(right_.size() + vocab_);
    const auto first = right_.begin() + static_cast<std::ptrdiff_t>(row_[left]);
    const auto last = right_.begin() + static_cast<std::ptrdiff_t>(row_[left + 1]);
    if (first == last) return base;
    const auto at = std::lower_bound(first, last, right);
    const double seen = at != last && *at == right ? times_[static_cast<size_t>(at - right_.begin())] - discount_ : 0.0;
    return (seen + discount_ * static_cast<double>(last - first) * base) / static_cast<double>(followed_[left]);
  }

 private:
  void collect(const std::vector<uint64_t>& pairs) {
    row_.assign(vocab_ + 1, 0);
    followed_.assign(vocab_, 0);
    predecessors_.assign(vocab_, 0);
    double once = 0, twice = 0;
    for (size_t i = 0, next; i < pairs.size(); i = next) {
      for (next = i + 1; next < pairs.size() && pairs[next] == pairs[i];) ++next;
      const auto left = static_cast<uint32_t>(pairs[i] >> 32), right = static_cast<uint32_t>(pairs[i]);
      right_.push_back(right);
      times_.push_back(static_cast<uint32_t>(next - i));
      row_[left + 1] = right_.size();
      followed_[left] += next - i;
      ++predecessors_[right];
      once += next - i == 1;
      twice += next - i == 2;
    }
    for (size_t i = 1; i <= vocab_; ++i) row_[i] = std::max(row_[i], row_[i - 1]);
    discount_ = once > 0 ? once / (once + 2 * twice) : 0.5;
  }

  size_t vocab_;
  uint64_t total_ = 0;
  double discount_ = 0;
  std::vector<uint64_t> count_;         // of each token
  std::vector<uint64_t> followed_;      // of each token, with one after it
  std::vector<uint64_t> predecessors_;  // different ones
  std::vector<size_t> row_;             // left -> its first entry in the next two
  std::vector<uint32_t> right_, times_;
};

}  // namespace

BigramLoss measure_bigram(const TokenSet& train, const TokenSet& val, int64_t max_tokens) {
  require(val.tokens() > 1, val.directory(), ": the validation split has a single token");
  BigramLoss loss;
  loss.fitted_tokens = std::min(train.tokens(), max_tokens);
  loss.tokens = val.tokens() - 1;
  const BigramModel model(train, loss.fitted_tokens);
  bool first = true;
  uint32_t left = 0;
  for_each_token(val, val.tokens(), [&](uint32_t token) {
    if (!first) {
      loss.unigram -= std::log(model.unigram(token));
      loss.bigram -= std::log(model.bigram(left, token));
    }
    first = false;
    left = token;
  });
  loss.unigram /= static_cast<double>(loss.tokens);
  loss.bigram /= static_cast<double>(loss.tokens);
  return loss;
}

}  // namespace scfa
