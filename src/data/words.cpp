#include "data/words.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "data/unicode_ranges.h"

namespace scfa {

namespace {

enum Class : uint8_t { kOther, kLetter, kNumber, kBlank };

struct Character {
  Class kind;
  uint8_t length;  // bytes
};

// Class of every code point in two levels: most blocks of 256 are all of one class and share storage.
class ClassTable {
 public:
  ClassTable() {
    std::vector<uint8_t> flat(kCodePoints, kOther);
    for (const auto& [first, last] : kLetterRanges) std::fill(&flat[first], &flat[last] + 1, kLetter);
    for (const auto& [first, last] : kNumberRanges) std::fill(&flat[first], &flat[last] + 1, kNumber);
    for (const auto& [first, last] : kBlankRanges) std::fill(&flat[first], &flat[last] + 1, kBlank);
    for (size_t block = 0; block < block_of_.size(); ++block) add_block(block, &flat[block * 256]);
  }

  Class operator[](uint32_t point) const {
    return static_cast<Class>(classes_[size_t{block_of_[point >> 8]} << 8 | (point & 0xFF)]);
  }

 private:
  static constexpr size_t kCodePoints = 0x110000;

  void add_block(size_t block, const uint8_t* classes) {
    size_t same = 0;
    while (same < classes_.size() && !std::equal(classes, classes + 256, &classes_[same])) same += 256;
    if (same == classes_.size()) classes_.insert(classes_.end(), classes, classes + 256);
    block_of_[block] = static_cast<uint16_t>(same >> 8);
  }

  std::array<uint16_t, kCodePoints / 256> block_of_{};
  std::vector<uint8_t> classes_;
};

constexpr std::array<Class, 128> kAsciiClass = [] {
  std::array<Class, 128> table{};
  for (int c = 0; c < 128; ++c) {
    const bool letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    const bool blank = (c >= '\t' && c <= '\r') || c == ' ';
    table[static_cast<size_t>(c)] = letter ? kLetter : c >= '0' && c <= '9' ? kNumber : blank ? kBlank : kOther;
  }
  return table;
}();

bool continues(uint8_t byte) {
  return (byte & 0xC0) == 0x80;
}

// The character whose first byte, not ASCII, stands at p < end.
Character wide_character(const uint8_t* p, const uint8_t* end) {
  static const ClassTable table;
  constexpr Character kBad{kOther, 1};
  const int length = *p >= 0xF0 ? 4 : *p >= 0xE0 ? 3 : 2;
  if (*p < 0xC2 || *p > 0xF4 || end - p < length) return kBad;
  uint32_t point = *p & (0xFFu >> (length + 1));
  for (int i = 1; i < length; ++i) {
    if (!continues(p[i])) return kBad;
    point = point << 6 | (p[i] & 0x3Fu);
  }
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  if (point < kLeast[length] || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) return kBad;
  return {table[point], static_cast<uint8_t>(length)};
}

Character character_at(const uint8_t* p, const uint8_t* end) {
  if (*p < 0x80) return {kAsciiClass[*p], 1};
  return wide_character(p, end);
}

// The first place from p on where no character of this class stands.
const uint8_t* skip(const uint8_t* p, const uint8_t* end, Class kind) {
  while (p != end) {
    if (*p < 0x80) {
      if (kAsciiClass[*p] != kind) return p;
      ++p;
    } else {
      const Character c = wide_character(p, end);
      if (c.kind != kind) return p;
      p += c.length;
    }
  }
  return p;
}

// Length of the contraction ('s 't 're 've 'm 'll 'd) at p, where an apostrophe stands; 0 if there is none.
size_t contraction(const uint8_t* p, const uint8_t* end) {
  if (end - p < 2) return 0;
  if (p[1] == 's' || p[1] == 't' || p[1] == 'm' || p[1] == 'd') return 2;
  if (end - p < 3) return 0;
  const bool two = (p[1] == 'r' && p[2] == 'e') || (p[1] == 'v' && p[2] == 'e') || (p[1] == 'l' && p[2] == 'l');
  return two ? 3 : 0;
}

// A run of blanks leaves its last character to the next word, unless the text or the run's only character ends it.
const uint8_t* blanks_end(const uint8_t* p, const uint8_t* end) {
  const uint8_t* last = p;
  const uint8_t* q = p;
  while (q != end) {
    const Character c = character_at(q, end);
    if (c.kind != kBlank) return last == p ? q : last;
    last = q;
    q += c.length;
  }
  return end;
}

// Class of the character that ends just before p, which is a place where a character starts.
Class class_before(const uint8_t* begin, const uint8_t* p) {
  const uint8_t* first = p - 1;
  while (first != begin && p - first < 4 && continues(*first)) --first;
  const Character c = character_at(first, p);
  return first + c.length == p ? c.kind : kOther;  // else the last byte is a bad one
}

}  // namespace

size_t word_end(std::string_view text, size_t begin) {
  const auto* base = reinterpret_cast<const uint8_t*>(text.data());
  const uint8_t* end = base + text.size();
  const uint8_t* p = base + begin;
  if (*p == '\'')
    if (const size_t length = contraction(p, end)) return begin + length;
  const uint8_t* first = p;
  if (*p == ' ' && p + 1 != end) ++first;  // one space joins the word that it precedes
  const Character c = character_at(first, end);
  const uint8_t* stop = c.kind == kBlank ? blanks_end(p, end) : skip(first + c.length, end, c.kind);
  return static_cast<size_t>(stop - base);
}

// Words are stateless, and every word that ends in a letter, number or other is a run of one class: it ends where the
// class changes. The exceptions are blanks (the last of a run belongs to what follows) and the apostrophe of a
// contraction.
size_t word_cut(std::string_view text) {
  const auto* base = reinterpret_cast<const uint8_t*>(text.data());
  const uint8_t* end = base + text.size();
  for (const uint8_t* p = end - std::min<size_t>(text.size(), 4); p > base; --p) {  // so that the next one is complete
    if (continues(*p)) continue;
    const Class before = class_before(base, p);
    if (before != kBlank && before != character_at(p, end).kind && p[-1] != '\'') return static_cast<size_t>(p - base);
  }
  return 0;
}

}  // namespace scfa
