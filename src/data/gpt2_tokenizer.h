// The tokenizer "gpt2": words (data/words.h), then byte-pair encoding (data/bpe.h) behind a cache of words.
#pragma once
#include "data/bpe.h"
#include "data/tokenizer.h"

namespace scfa {

class Gpt2Tokenizer final : public Tokenizer {
 public:
  Gpt2Tokenizer();

  std::string_view name() const override { return "gpt2"; }
  uint32_t vocab_size() const override { return vocabulary_.size(); }
  uint32_t end_of_text() const override { return vocabulary_.size() - 1; }
  void encode(std::string_view text, std::vector<uint32_t>& tokens) override;
  std::string_view bytes(uint32_t token) const override { return vocabulary_.bytes(token); }
  size_t safe_cut(std::string_view text) const override;

 private:
  // Words of up to 15 bytes and 7 tokens: nearly all there are. Other words are merged each time.
  struct Key {
    uint64_t low = 0, high = 0;  // bytes, padded with zeros; the top byte is the length
    bool operator==(const Key&) const = default;
  };
  struct CachedWord {
    Key key;
    uint16_t tokens[7];
    uint16_t count;
  };
  static_assert(sizeof(CachedWord) == 32);
  static constexpr size_t kMaxCached = 15;
  static constexpr int kSlotBits = 17;  // 4 MiB a thread

  static Key make_key(std::string_view text, size_t begin, size_t length);
  static size_t slot_of(const Key& key);
  void encode_uncached(std::string_view word, const Key* key, std::vector<uint32_t>& tokens);

  const BpeVocabulary& vocabulary_;
  std::vector<CachedWord> cache_;  // direct-mapped
};

}  // namespace scfa
