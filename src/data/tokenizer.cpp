#include "data/tokenizer.h"

#include <array>

#include "core/error.h"
#include "data/gpt2_tokenizer.h"

namespace scfa {

namespace {

class BytesTokenizer final : public Tokenizer {
 public:
  static constexpr uint32_t kEndOfText = 256;

  std::string_view name() const override { return "bytes"; }
  uint32_t vocab_size() const override { return kEndOfText + 1; }
  uint32_t end_of_text() const override { return kEndOfText; }
  void encode(std::string_view text, std::vector<uint32_t>& tokens) override {
    const auto* first = reinterpret_cast<const uint8_t*>(text.data());
    tokens.insert(tokens.end(), first, first + text.size());
  }
  std::string_view bytes(uint32_t token) const override {
    static constexpr std::array<char, 256> kBytes = [] {
      std::array<char, 256> all{};
      for (size_t i = 0; i < 256; ++i) all[i] = static_cast<char>(i);
      return all;
    }();
    require(token <= kEndOfText, "token ", token, " is not in the vocabulary of ", vocab_size());
    return token == kEndOfText ? std::string_view("<|endoftext|>") : std::string_view(&kBytes[token], 1);
  }
  size_t safe_cut(std::string_view text) const override { return text.size(); }
};

}  // namespace

std::string Tokenizer::decode(std::span<const uint32_t> tokens) const {
  std::string text;
  for (const uint32_t token : tokens) text += bytes(token);
  return text;
}

std::unique_ptr<Tokenizer> make_tokenizer(std::string_view name) {
  if (name == "gpt2") return std::make_unique<Gpt2Tokenizer>();
  if (name == "bytes") return std::make_unique<BytesTokenizer>();
  fail("no tokenizer is called '", name, "'; there are gpt2 and bytes");
}

}  // namespace scfa
