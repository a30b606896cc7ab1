// The losses that a model without attention can reach: what a trained model must beat.
#pragma once
#include <cstdint>

#include "data/token_file.h"

namespace scfa {

struct BigramLoss {
  double unigram = 0;  // nats a token
  double bigram = 0;
  int64_t fitted_tokens = 0;
  int64_t tokens = 0;  // predicted
};

// Fits both models on the first `max_tokens` tokens of `train` and measures them on all of `val`. The unigram adds 1 to
// each count; the bigram is interpolated Kneser-Ney (Ney, Essen, Kneser 1994) with absolute discount
// n1 / (n1 + 2 n2), where n_k pairs occur k times.
BigramLoss measure_bigram(const TokenSet& train, const TokenSet& val, int64_t max_tokens = int64_t{1} << 26);

}  // namespace scfa
