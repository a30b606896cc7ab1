// A micro-batch of random tokens, for steps that learn nothing.
#pragma once
#include <vector>

#include "core/rng.h"
#include "model/config.h"

namespace scfa {

// Targets are drawn independently of ids; they are not the ids shifted by one.
struct RandomTokens {
  std::vector<int32_t> ids, targets;
  std::vector<uint32_t> samples;

  RandomTokens(const GptConfig& c, int64_t sequences)
      : ids(static_cast<size_t>(sequences * c.sequence_length)), targets(ids.size()) {
    for (size_t i = 0; i < ids.size(); ++i) {
      const Random4 bits = random4(1, Purpose::kSample, 0, 0, 0, 0, static_cast<uint32_t>(i));
      ids[i] = static_cast<int32_t>(bits.v[0] % static_cast<uint64_t>(c.vocab_size));
      targets[i] = static_cast<int32_t>(bits.v[1] % static_cast<uint64_t>(c.vocab_size));
    }
    for (int64_t b = 0; b < sequences; ++b) samples.push_back(static_cast<uint32_t>(b));
  }
};

}  // namespace scfa
