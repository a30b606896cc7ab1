#include "train/generate.h"

#include "core/rng.h"
#include "data/tokenizer.h"
#include "train/checkpoint.h"
#include "train/machine.h"

namespace scfa {

int64_t generate(const GenerateOptions& options, const std::function<void(std::string_view)>& write) {
  require(options.tokens >= 1, "generate: tokens must be at least 1, not ", options.tokens);
  const CheckpointState state = find_checkpoint(options.checkpoint);
  const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(state.tokenizer);
  std::vector<uint32_t> tokens;
  tokenizer->encode(options.prompt, tokens);
  if (tokens.empty()) tokens.push_back(tokenizer->end_of_text());  // an empty prompt starts a document
  require(static_cast<int64_t>(tokens.size()) <= state.config.model.sequence_length, "generate: the prompt has ",
          tokens.size(), " tokens, more than the model's context of ", state.config.model.sequence_length);

  Context ctx(choose_device(options.device));
  GptConfig config = state.config.model;
  Gpt model(ctx, config, 1, static_cast<uint64_t>(state.config.seed), Gpt::Mode::kDecoding);
  load_checkpoint(state.path, model, nullptr);
  Decoder decoder(model);
  ConstTensor logits;
  for (const uint32_t token : tokens) logits = decoder.feed(static_cast<int32_t>(token));
  write(options.prompt);
  int64_t made = 0;
  while (made < options.tokens) {
    const Random4 bits = random4(options.seed, Purpose::kSample, static_cast<uint32_t>(made), 0, 0, 0, 0);
    const int32_t token = sample_token(logits, options.sampling, static_cast<double>(uniform(bits.v[0])));
    ++made;
    if (static_cast<uint32_t>(token) == tokenizer->end_of_text()) break;
    if (static_cast<uint32_t>(token) < tokenizer->vocab_size()) write(tokenizer->bytes(static_cast<uint32_t>(token)));
    if (decoder.length() == config.sequence_length) break;
    logits = decoder.feed(token);
  }
  return made;
}

}  // namespace scfa
