#include "data/gpt2_tokenizer.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/error.h"
#include "data/words.h"

namespace scfa {

static_assert(std::endian::native == std::endian::little, "keys and token files are little-endian");

Gpt2Tokenizer::Gpt2Tokenizer() : vocabulary_(BpeVocabulary::gpt2()), cache_(size_t{1} << kSlotBits) {
  require(vocabulary_.size() == 50257, "GPT-2 merges: ", vocabulary_.size(), " entries, not 50257");
}

Gpt2Tokenizer::Key Gpt2Tokenizer::make_key(std::string_view text, size_t begin, size_t length) {
  Key key;
  if (begin + sizeof(key) <= text.size()) {  // two plain loads, then blank what follows the word
    std::memcpy(&key, text.data() + begin, sizeof(key));
    const uint64_t keep = ~uint64_t{0} >> (64 - 8 * (length & 7)) % 64;
    if (length < 8) {
      key.low &= length == 0 ? 0 : keep;
      key.high = 0;
    } else {
      key.high &= length == 8 ? 0 : keep;
    }
  } else {
    std::memcpy(&key, text.data() + begin, length);
  }
  key.high |= uint64_t{length} << 56;
  return key;
}

size_t Gpt2Tokenizer::slot_of(const Key& key) {
  const uint64_t mixed = (key.low ^ key.high * 0x9E3779B97F4A7C15u) * 0xD6E8FEB86659FD93u;
  return (mixed ^ mixed << 31) >> (64 - kSlotBits);
}

void Gpt2Tokenizer::encode(std::string_view text, std::vector<uint32_t>& tokens) {
  constexpr size_t kRoom = 4096;
  uint32_t room[kRoom];  // tokens on their way out: appending one by one is slow
  size_t used = 0;
  for (size_t begin = 0, end; begin < text.size(); begin = end) {
    end = word_end(text, begin);
    const size_t length = end - begin;
    if (used + 7 > kRoom || length > kMaxCached) {
      tokens.insert(tokens.end(), room, room + used);
      used = 0;
    }
    if (length > kMaxCached) {
      encode_uncached(text.substr(begin, length), nullptr, tokens);
      continue;
    }
    const Key key = make_key(text, begin, length);
    const CachedWord& cached = cache_[slot_of(key)];
    if (cached.key == key) {
      for (size_t i = 0; i < 7; ++i) room[used + i] = cached.tokens[i];  // all of them: no branch
      used += cached.count;
    } else {
      tokens.insert(tokens.end(), room, room + used);
      used = 0;
      encode_uncached(text.substr(begin, length), &key, tokens);
    }
  }
  tokens.insert(tokens.end(), room, room + used);
}

void Gpt2Tokenizer::encode_uncached(std::string_view word, const Key* key, std::vector<uint32_t>& tokens) {
  require(word.size() <= kMaxWord, "gpt2 tokenizer: a run of ", word.size(),
          " bytes of one kind (letters, digits, blanks or others) is over the limit of ", kMaxWord);
  const size_t before = tokens.size();
  vocabulary_.encode_word(word, tokens);
  const size_t count = tokens.size() - before;
  if (key == nullptr || count > 7) return;
  CachedWord& cached = cache_[slot_of(*key)];
  cached.key = *key;
  cached.count = static_cast<uint16_t>(count);
  std::copy(tokens.begin() + static_cast<std::ptrdiff_t>(before), tokens.end(), cached.tokens);
}

size_t Gpt2Tokenizer::safe_cut(std::string_view text) const {
  return word_cut(text);
}

}  // namespace scfa
