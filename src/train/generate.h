// Text from a checkpoint.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"
#include "model/decoder.h"

namespace scfa {

struct GenerateOptions {
  std::string checkpoint{};  // a checkpoint, or a run: its newest
  std::string prompt{};
  int64_t tokens = 200;  // to generate; fewer if the context fills up or the text ends
  SamplingOptions sampling{};
  uint64_t seed = 1;
  std::string device = "auto";  // as in a config
  bool slide = false;           // where the context is full, go on with its last half (SlidingDecoder)
};

enum class GenerationEnd : uint8_t { kTokens, kEndOfText, kContextFull, kSignal };

struct Generated {
  int64_t prompt_tokens = 0, tokens = 0;
  GenerationEnd end = GenerationEnd::kTokens;
};

// A model with its prompt, from which any number of texts can be drawn.
class Generator {
 public:
  // Throws Error if there is no such checkpoint, or without slide if the prompt does not fit the context.
  explicit Generator(const GenerateOptions& options);

  // Of newer checkpoints of the run that are not whole.
  const std::vector<std::string>& warnings() const { return warnings_; }

  // Calls write with the prompt, then with the bytes of each token as it comes. Ends early once a signal asked to stop.
  // Throws Error, with nothing written of that token, where the model's logits are not finite.
  Generated sample(uint64_t seed, const std::function<void(std::string_view)>& write);

  int64_t context_length() const { return context_length_; }

 private:
  GenerateOptions options_;
  std::vector<std::string> warnings_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<uint32_t> prompt_;
  int64_t context_length_ = 0;
  Context ctx_;
  std::unique_ptr<ParameterStore> store_;
  std::unique_ptr<Gpt> model_;
  std::unique_ptr<SlidingDecoder> decoder_;
};

// One text, drawn with the seed of the options.
Generated generate(const GenerateOptions& options, const std::function<void(std::string_view)>& write);

}  // namespace scfa
