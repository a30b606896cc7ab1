#include "train/generate.h"

#include "core/rng.h"
#include "core/signals.h"
#include "data/manifest.h"
#include "train/checkpoint.h"
#include "train/machine.h"
#include "train/run_folder.h"

namespace scfa {

Generator::Generator(const GenerateOptions& options) : options_(options), ctx_(choose_device(options.device)) {
  require(options.tokens >= 1, "tokens must be at least 1, not ", options.tokens);
  const CheckpointState state = find_checkpoint(options.checkpoint);
  warnings_ = state.skipped;
  const GptConfig config = model_after(state.config, state.step);
  context_length_ = config.sequence_length;
  require(state.tokenizer != kSyntheticTokenizer, state.path,
          ": was trained on synthetic sequences, which are no text; ./evaluate tells what it recalls");
  tokenizer_ = make_tokenizer(state.tokenizer);
  require(tokenizer_->vocab_size() <= config.vocab_size, state.path, ": the vocabulary of the model, ",
          config.vocab_size, ", is smaller than that of the tokenizer '", state.tokenizer, "', ",
          tokenizer_->vocab_size());
  tokenizer_->encode(options.prompt, prompt_);
  if (prompt_.empty()) prompt_.push_back(tokenizer_->end_of_text());  // an empty prompt starts a document
  require(options.slide || static_cast<int64_t>(prompt_.size()) <= context_length_, "the prompt has ", prompt_.size(),
          " tokens, more than the model's context of ", context_length_, "; --slide goes on with the last of them");
  store_ = std::make_unique<ParameterStore>(ctx_, config, StoreOptions{});
  model_ = std::make_unique<Gpt>(*store_, config, 1, static_cast<uint64_t>(state.config.seed), Gpt::Mode::kDecoding);
  load_checkpoint(state.path, *store_);
  decoder_ = std::make_unique<SlidingDecoder>(*model_);
}

Generated Generator::sample(uint64_t seed, const std::function<void(std::string_view)>& write) {
  Generated result{.prompt_tokens = static_cast<int64_t>(prompt_.size())};
  decoder_->reset();
  ConstTensor logits;
  const auto stopped = [&] {
    if (stop_requested()) result.end = GenerationEnd::kSignal;
    return stop_requested().load();
  };
  for (const uint32_t token : prompt_) {
    if (stopped()) return result;
    logits = decoder_->feed(static_cast<int32_t>(token));
  }
  write(options_.prompt);
  while (!stopped()) {
    const Random4 bits = random4(seed, Purpose::kSample, static_cast<uint32_t>(result.tokens), 0, 0, 0, 0);
    const int32_t token = sample_token(logits, options_.sampling, static_cast<double>(uniform(bits.v[0])));
    ++result.tokens;
    const auto id = static_cast<uint32_t>(token);
    if (id == tokenizer_->end_of_text()) {
      result.end = GenerationEnd::kEndOfText;
      break;
    }
    if (id < tokenizer_->vocab_size()) write(tokenizer_->bytes(id));
    if (result.tokens == options_.tokens) break;
    if (decoder_->full() && !options_.slide) {
      result.end = GenerationEnd::kContextFull;
      break;
    }
    logits = decoder_->feed(token);
  }
  return result;
}

Generated generate(const GenerateOptions& options, const std::function<void(std::string_view)>& write) {
  return Generator(options).sample(options.seed, write);
}

}  // namespace scfa
