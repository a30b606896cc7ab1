// Text to tokens and back. Two tokenizers: "gpt2", the byte-pair encoding of GPT-2 (50257 entries, the same ids as
// OpenAI's encoder for any UTF-8 text), and "bytes" (a token a byte, and end-of-text).
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace scfa {

// An object serves one thread at a time: encoding keeps a cache of words. Objects of the same name share their tables,
// so a thread that needs one makes its own at little cost.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::string_view name() const = 0;
  virtual uint32_t vocab_size() const = 0;
  virtual uint32_t end_of_text() const = 0;

  // Appends the tokens of `text`, any bytes. All of it is ordinary text: "<|endoftext|>" in it does not become the
  // end-of-text token. Throws Error for a single word or run of more than kMaxWord bytes.
  virtual void encode(std::string_view text, std::vector<uint32_t>& tokens) = 0;

  // The bytes of one token, part of a UTF-8 character perhaps; end-of-text gives "<|endoftext|>". The view lives as
  // long as the program. Throws Error if token >= vocab_size().
  virtual std::string_view bytes(uint32_t token) const = 0;

  // The largest n such that the tokens of text[0, n) followed by those of the rest are the tokens of the whole,
  // whatever text is appended later. 0 if there is no such place.
  virtual size_t safe_cut(std::string_view text) const = 0;

  std::string decode(std::span<const uint32_t> tokens) const;

  static constexpr size_t kMaxWord = size_t{8} << 20;
};

// The tokenizer of that name ("gpt2" or "bytes"). Throws Error naming the known ones.
std::unique_ptr<Tokenizer> make_tokenizer(std::string_view name);

}  // namespace scfa
