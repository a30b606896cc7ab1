// The one exception type. Its text names the op, file, key or value at fault, the rule, and what was seen.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace scfa {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

// Throws Error with the parts put together. Parts are streamed, so any mix of text and numbers will do.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(concat(parts...));
}

// At most about 80 characters of a value, for messages, on one line whatever it holds.
inline std::string abbreviate(const std::string& text) {
  constexpr size_t kShown = 80;
  std::string shown = text.size() <= kShown ? text : text.substr(0, kShown - 20);
  for (char& c : shown)
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = '?';
  return text.size() <= kShown ? shown : shown + "... (" + std::to_string(text.size()) + " bytes)";
}

template <class... Parts>
void require(bool ok, const Parts&... parts) {
  if (!ok) fail(parts...);
}

}  // namespace scfa
