#include "data/json_lines.h"

#include <cstdint>
#include <cstring>
#include <vector>

#include "core/error.h"

namespace scfa {

namespace {

constexpr int kMaxDepth = 256;
constexpr size_t kListedKeys = 200;  // bytes of them in a message
constexpr std::string_view kListSeparator = "\n\n";

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

void append_utf8(uint32_t point, std::string& out) {
  const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
  if (point < 0x80) return put(point);
  if (point < 0x800) {
    put(0xC0 | point >> 6);
  } else {
    if (point < 0x10000) {
      put(0xE0 | point >> 12);
    } else {
      put(0xF0 | point >> 18);
      put(0x80 | (point >> 12 & 0x3F));
    }
    put(0x80 | (point >> 6 & 0x3F));
  }
  put(0x80 | (point & 0x3F));
}

// Eight bytes at a time: whether any is a quote, a backslash or a control character.
bool has_special(const char* p) {
  constexpr uint64_t kOnes = 0x0101010101010101u, kHighs = 0x8080808080808080u;
  uint64_t word;
  std::memcpy(&word, p, sizeof(word));
  const uint64_t quote = word ^ kOnes * '"', backslash = word ^ kOnes * '\\';
  const uint64_t found =
      ((quote - kOnes) & ~quote) | ((backslash - kOnes) & ~backslash) | ((word - kOnes * 0x20) & ~word);
  return (found & kHighs) != 0;
}

class LineParser {
 public:
  LineParser(std::string_view line, std::string_view field)
      : begin_(line.data()), p_(begin_), end_(begin_ + line.size()), field_(field) {}

  void parse(std::string& text) {
    const size_t start = text.size();
    bool found = false;
    skip_blanks();
    if (p_ != end_ && *p_ == '[') fail("a list, where each line must be an object (jq -c '.[]' makes lines of a list)");
    expect('{', "an object must start here");
    skip_blanks();
    for (bool more = p_ == end_ || *p_ != '}'; more;) {
      skip_blanks();
      key_.clear();
      parse_string(&key_);
      if (keys_.size() < kListedKeys) keys_ += concat(keys_.empty() ? "" : ", ", abbreviate(key_));
      skip_blanks();
      expect(':', "a colon must follow the key");
      skip_blanks();
      if (key_ == field_) {
        text.resize(start);
        parse_text(text);
        found = true;
      } else {
        skip_value(0);
      }
      skip_blanks();
      more = take(',');
    }
    expect('}', "a comma or the end of the object must follow");
    skip_blanks();
    if (p_ != end_) wrong("something follows the object");
    require(found, "no field '", field_, "'; this line has: ", keys_.empty() ? "none" : keys_);
  }

 private:
  [[noreturn]] void wrong(std::string_view what) const {
    fail("not valid JSON at column ", p_ - begin_ + 1, ": ", p_ == end_ ? "the line ends; " : "", what);
  }

  void skip_blanks() {
    while (p_ != end_ && (*p_ == ' ' || *p_ == '\t' || *p_ == '\r' || *p_ == '\n')) ++p_;
  }
  bool take(char c) {
    if (p_ == end_ || *p_ != c) return false;
    ++p_;
    return true;
  }
  void expect(char c, std::string_view otherwise) {
    if (!take(c)) wrong(otherwise);
  }

  void parse_text(std::string& text) {
    if (p_ != end_ && *p_ == '"') return parse_string(&text);
    if (!take('[')) fail("field '", field_, "' must be a string or a list of strings");
    skip_blanks();
    if (take(']')) return;
    for (bool first = true; first || take(','); first = false) {
      skip_blanks();
      if (!first) text += kListSeparator;
      if (p_ == end_ || *p_ != '"') fail("the list in field '", field_, "' must hold strings only");
      parse_string(&text);
      skip_blanks();
    }
    expect(']', "a comma or the end of the list must follow");
  }

  void parse_string(std::string* out) {  // null: only checked
    expect('"', "a string must start here");
    while (true) {
      const char* plain = p_;
      while (end_ - p_ >= 8 && !has_special(p_)) p_ += 8;
      while (p_ != end_ && *p_ != '"' && *p_ != '\\' && static_cast<uint8_t>(*p_) >= 0x20) ++p_;
      if (out != nullptr) out->append(plain, p_);
      if (take('"')) return;
      if (p_ == end_) wrong("within a string");
      if (*p_ != '\\') wrong("a control character in a string must be escaped");
      ++p_;
      parse_escape(out);
    }
  }

  void parse_escape(std::string* out) {
    static constexpr std::string_view kNames = "\"\\/bfnrt", kValues = "\"\\/\b\f\n\r\t";
    if (p_ == end_) wrong("within a string");
    if (take('u')) {
      const uint32_t point = parse_code_point();
      if (out != nullptr) append_utf8(point, *out);
      return;
    }
    const size_t which = kNames.find(*p_);
    if (which == std::string_view::npos) wrong("unknown escape in a string");
    if (out != nullptr) *out += kValues[which];
    ++p_;
  }

  // After "\u". Two halves of a surrogate pair are one code point.
  uint32_t parse_code_point() {
    const uint32_t first = parse_hex4();
    if (first < 0xD800 || first >= 0xE000) return first;
    const char* after = p_;
    if (first < 0xDC00 && take('\\') && take('u')) {
      const uint32_t second = parse_hex4();
      if (second >= 0xDC00 && second < 0xE000) return 0x10000 + ((first - 0xD800) << 10 | (second - 0xDC00));
    }
    p_ = after;
    return 0xFFFD;
  }

  uint32_t parse_hex4() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = p_ == end_ ? '\0' : *p_;
      const int digit = is_digit(c)            ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) wrong("four hexadecimal digits must follow \\u");
      value = value << 4 | static_cast<uint32_t>(digit);
      ++p_;
    }
    return value;
  }

  void skip_value(int depth) {
    if (depth > kMaxDepth) wrong("values are nested too deep");
    if (p_ == end_) wrong("a value must follow");
    if (*p_ == '"') return parse_string(nullptr);
    if (*p_ == '{' || *p_ == '[') return skip_container(depth);
    if (*p_ == '-' || is_digit(*p_)) return skip_number();
    for (const std::string_view word : {std::string_view("true"), std::string_view("false"), std::string_view("null")})
      if (std::string_view(p_, static_cast<size_t>(end_ - p_)).starts_with(word)) {
        p_ += word.size();
        return;
      }
    wrong("a value must follow");
  }

  void skip_container(int depth) {
    const bool object = *p_++ == '{';
    const char close = object ? '}' : ']';
    skip_blanks();
    if (take(close)) return;
    do {
      skip_blanks();
      if (object) {
        parse_string(nullptr);
        skip_blanks();
        expect(':', "a colon must follow the key");
        skip_blanks();
      }
      skip_value(depth + 1);
      skip_blanks();
    } while (take(','));
    expect(close,
           object ? "a comma or the end of the object must follow" : "a comma or the end of the list must follow");
  }

  void skip_digits() {
    if (p_ == end_ || !is_digit(*p_)) wrong("a digit must follow");
    while (p_ != end_ && is_digit(*p_)) ++p_;
  }
  void skip_number() {
    take('-');
    if (!take('0')) skip_digits();
    if (take('.')) skip_digits();
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      skip_digits();
    }
  }

  const char *begin_, *p_, *end_;
  std::string_view field_;
  std::string key_, keys_;
};

}  // namespace

void extract_json_text(std::string_view line, std::string_view field, std::string& text) {
  LineParser(line, field).parse(text);
}

}  // namespace scfa
