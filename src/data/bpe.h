// Byte-pair encoding: a vocabulary built from a list of merges, and the merging of one word.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace scfa {

class BpeVocabulary {
 public:
  static constexpr uint32_t kNone = 0xFFFFFFFFu;

  // From the text of GPT-2's vocab.bpe: after a line of its version, one merge a line, written in characters that stand
  // for bytes. Ids 0-255 are the bytes in the order of those characters, 256 + i is merge i, the last is end-of-text.
  explicit BpeVocabulary(std::string_view merges);

  // The one that is part of the program.
  static const BpeVocabulary& gpt2();

  uint32_t size() const { return static_cast<uint32_t>(begin_.size() - 1); }
  std::string_view bytes(uint32_t token) const;
  uint32_t byte_token(uint8_t byte) const { return byte_token_[byte]; }

  // The token that a pair becomes, or kNone. Smaller tokens were merged first and go first.
  uint32_t merged(uint32_t left, uint32_t right) const {
    const uint32_t key = left << 16 | right;
    for (size_t slot = slot_of(key);; slot = (slot + 1) & (kSlots - 1)) {
      if (pairs_[slot].key == key) return pairs_[slot].token;
      if (pairs_[slot].token == kNone) return kNone;
    }
  }

  // Appends the tokens of one word, not empty: while two neighbours can be merged, the pair with the smallest result
  // is, the leftmost first. O(n log n) for long words.
  void encode_word(std::string_view word, std::vector<uint32_t>& tokens) const;

 private:
  static constexpr size_t kSlots = size_t{1} << 17;
  struct Pair {
    uint32_t key, token;
  };

  static size_t slot_of(uint32_t key) { return key * 0x9E3779B1u >> 15; }
  void add_token(std::string_view bytes);
  void add_pair(uint32_t left, uint32_t right, uint32_t token);
  void encode_short(std::string_view word, std::vector<uint32_t>& tokens) const;
  void encode_long(std::string_view word, std::vector<uint32_t>& tokens) const;

  uint32_t byte_token_[256];
  std::vector<Pair> pairs_;      // open addressing
  std::string text_;             // the bytes of all tokens
  std::vector<uint32_t> begin_;  // token -> its place in text_
};

}  // namespace scfa
