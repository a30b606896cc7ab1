#include "data/bpe.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <unordered_map>

#include "core/error.h"

extern "C" const char scfa_gpt2_vocab_bpe[];  // assets/gpt2-vocab.bpe, embedded by the build
extern "C" const char scfa_gpt2_vocab_bpe_end[];

namespace scfa {

namespace {

constexpr size_t kShortWord = 48;  // above, a heap beats looking through all pairs

bool printable(int byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

// vocab.bpe writes a printable Latin-1 byte as itself and the n-th other one as code point 256 + n.
std::string unescape(std::string_view written) {
  std::string bytes;
  for (size_t i = 0; i < written.size(); ++i) {
    uint32_t point = static_cast<uint8_t>(written[i]);
    if (point >= 0x80 && i + 1 < written.size()) point = (point & 0x1F) << 6 | (written[++i] & 0x3F);
    if (point >= 256) {
      int other = static_cast<int>(point) - 256;
      int byte = 0;
      while (byte < 256 && (printable(byte) || other-- > 0)) ++byte;
      require(byte < 256, "GPT-2 merges: '", written, "' has a character that stands for no byte");
      point = static_cast<uint32_t>(byte);
    }
    bytes += static_cast<char>(point);
  }
  return bytes;
}

}  // namespace

BpeVocabulary::BpeVocabulary(std::string_view merges) : pairs_(kSlots, Pair{kNone, kNone}), begin_{0} {
  std::unordered_map<std::string, uint32_t> token_of;
  for (const bool first : {true, false})
    for (int byte = 0; byte < 256; ++byte) {
      if (printable(byte) != first) continue;
      byte_token_[byte] = size();
      const std::string bytes(1, static_cast<char>(byte));
      token_of.emplace(bytes, size());
      add_token(bytes);
    }
  for (size_t at = merges.find('\n'); at != std::string_view::npos && at + 1 < merges.size();) {
    const size_t stop = std::min(merges.find('\n', at + 1), merges.size());
    const std::string_view line = merges.substr(at + 1, stop - at - 1);
    const size_t space = line.find(' ');
    require(space != std::string_view::npos, "GPT-2 merges: a line without two parts: '", line, "'");
    const std::string left = unescape(line.substr(0, space)), right = unescape(line.substr(space + 1));
    const auto a = token_of.find(left), b = token_of.find(right);
    require(a != token_of.end() && b != token_of.end(), "GPT-2 merges: '", line, "' merges what is not there yet");
    add_pair(a->second, b->second, size());
    token_of.emplace(left + right, size());
    add_token(left + right);
    at = stop;
  }
  add_token("<|endoftext|>");
}

const BpeVocabulary& BpeVocabulary::gpt2() {
  static const BpeVocabulary vocabulary(
      std::string_view(scfa_gpt2_vocab_bpe, static_cast<size_t>(scfa_gpt2_vocab_bpe_end - scfa_gpt2_vocab_bpe)));
  return vocabulary;
}

std::string_view BpeVocabulary::bytes(uint32_t token) const {
  require(token < size(), "token ", token, " is not in the vocabulary of ", size());
  return std::string_view(text_).substr(begin_[token], begin_[token + 1] - begin_[token]);
}

void BpeVocabulary::add_token(std::string_view bytes) {
  text_ += bytes;
  begin_.push_back(static_cast<uint32_t>(text_.size()));
}

void BpeVocabulary::add_pair(uint32_t left, uint32_t right, uint32_t token) {
  require(token < 0xFFFF, "GPT-2 merges: too many");
  const uint32_t key = left << 16 | right;
  size_t slot = slot_of(key);
  while (pairs_[slot].token != kNone) slot = (slot + 1) & (kSlots - 1);
  pairs_[slot] = {key, token};
}

void BpeVocabulary::encode_word(std::string_view word, std::vector<uint32_t>& tokens) const {
  word.size() <= kShortWord ? encode_short(word, tokens) : encode_long(word, tokens);
}

void BpeVocabulary::encode_short(std::string_view word, std::vector<uint32_t>& tokens) const {
  uint32_t part[kShortWord], pair[kShortWord];  // pair[i] is what part[i] and part[i + 1] would become
  size_t parts = word.size();
  for (size_t i = 0; i < parts; ++i) part[i] = byte_token(static_cast<uint8_t>(word[i]));
  for (size_t i = 0; i + 1 < parts; ++i) pair[i] = merged(part[i], part[i + 1]);
  pair[parts - 1] = kNone;
  while (parts > 1) {
    const size_t i = static_cast<size_t>(std::min_element(pair, pair + parts) - pair);
    if (pair[i] == kNone) break;
    part[i] = pair[i];
    std::copy(part + i + 2, part + parts, part + i + 1);
    std::copy(pair + i + 2, pair + parts, pair + i + 1);
    --parts;
    if (i > 0) pair[i - 1] = merged(part[i - 1], part[i]);
    pair[i] = i + 1 < parts ? merged(part[i], part[i + 1]) : kNone;
  }
  tokens.insert(tokens.end(), part, part + parts);
}

// A linked list of parts and a heap of the pairs that can merge, ordered by (result, place). An entry is stale when the
// pair at its place no longer becomes that result.
void BpeVocabulary::encode_long(std::string_view word, std::vector<uint32_t>& tokens) const {
  const size_t size = word.size();
  require(size < kNone, "a word of ", size, " bytes is too long");
  std::vector<uint32_t> part(size), next(size), previous(size);
  std::vector<uint64_t> storage;
  storage.reserve(size);
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> heap({}, std::move(storage));
  const auto end = static_cast<uint32_t>(size);
  const auto offer = [&](uint32_t left) {
    if (next[left] == end) return;
    const uint32_t token = merged(part[left], part[next[left]]);
    if (token != kNone) heap.push(uint64_t{token} << 32 | left);
  };
  for (uint32_t i = 0; i < end; ++i) {
    part[i] = byte_token(static_cast<uint8_t>(word[i]));
    next[i] = i + 1;
    previous[i] = i - 1;  // of the first: never followed
  }
  for (uint32_t i = 0; i < end; ++i) offer(i);
  while (!heap.empty()) {
    const auto left = static_cast<uint32_t>(heap.top());
    const auto token = static_cast<uint32_t>(heap.top() >> 32);
    heap.pop();
    const uint32_t right = next[left];
    if (part[left] == kNone || right == end || merged(part[left], part[right]) != token) continue;
    part[left] = token;
    part[right] = kNone;  // swallowed
    next[left] = next[right];
    if (next[left] != end) previous[next[left]] = left;
    offer(left);
    if (left > 0) offer(previous[left]);
  }
  for (uint32_t i = 0; i < end; i = next[i]) tokens.push_back(part[i]);
}

}  // namespace scfa
